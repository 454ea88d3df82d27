"""A team's promptfoo configuration as a regression suite.

`import_config` reads a configuration and gives the items that it makes, beside a list of all that cannot be
carried over; `write_suite` puts them into a file. What promptfoo would run as code (JavaScript, Python,
transforms, extensions) is never run here, and no file outside the configuration's folder is read.

`files` reads, `templates` renders, `prompts` and `cases` find what is asked and of what, `carry` turns
assertions over, `items` puts it together.
"""

from tasks.evaluate.suites.promptfoo.items import Imported, import_config
from tasks.evaluate.suites.promptfoo.ledger import Lost
from tasks.evaluate.suites.promptfoo.write import as_lines, write_suite

__all__ = ["Imported", "Lost", "as_lines", "import_config", "write_suite"]
