"""Differences between two releases other than their weights: chat template, tokenizer, configs and licence.

A silently changed chat template is the most common cause of a "worse" model: the prompt's format is not the one that
its weights were trained on. The small files of two releases are compared, from folders or from the Hub at a commit:

    report = changes_between(files_of_folder(old), files_of_source(provider, source))
    report.warnings                     # changes that may change answers to the same question
    changes_markdown(report)            # for a person
"""

from tasks.source.changes.change import Change, ChangeReport, Severity
from tasks.source.changes.compare import changes_against, changes_between
from tasks.source.changes.files import SmallFiles, files_of_folder, files_of_source
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
    "files_of_source",
]
