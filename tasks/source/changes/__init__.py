"""What changed between two releases beside their weights: what a model is told, and how its text is cut and ended.

A silently changed chat template is the commonest cause of a "worse" model: its weights are asked in words that they
were not trained on. Read are the small files of two releases, from folders or from the Hub at a pinned commit:

    report = changes_between(files_of_folder(old), files_of_hub(source))
    report.warnings                     # what may move the answers to the same question
    changes_markdown(report)            # for a person; says so where nothing changed
"""

from tasks.source.changes.change import Change, ChangeReport, Severity
from tasks.source.changes.compare import changes_against, changes_between
from tasks.source.changes.files import SmallFiles, files_of_folder, files_of_hub
from tasks.source.changes.markdown import changes_markdown

__all__ = [
    "Change",
    "ChangeReport",
    "Severity",
    "SmallFiles",
    "changes_against",
    "changes_between",
    "changes_markdown",
    "files_of_folder",
    "files_of_hub",
]
