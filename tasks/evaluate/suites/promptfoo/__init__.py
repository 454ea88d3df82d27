"""Import of a promptfoo configuration as a regression suite.

`import_config` reads a configuration and returns items, with a list of everything that cannot be imported;
`write_suite` writes a suite's file. Code that promptfoo would run (JavaScript, Python, transforms, extensions) is never
run here, and no file outside the configuration's folder is read.

`files` reads files, `templates` renders templates, `prompts` and `cases` read prompts and tests, `assertions` converts
assertions, `items` combines them, and `import_log` records what is left out.
"""

from tasks.evaluate.suites.promptfoo.import_log import Lost
from tasks.evaluate.suites.promptfoo.items import Imported, import_config
from tasks.evaluate.suites.promptfoo.suite_file import as_lines, write_suite

__all__ = ["Imported", "Lost", "as_lines", "import_config", "write_suite"]
