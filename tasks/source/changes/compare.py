"""Compare the small files of two releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.store import Artifact
from tasks.source.changes.change import KINDS, ChangeReport
from tasks.source.changes.fields import config_changes, generation_changes, licence_changes, template_changes
from tasks.source.changes.files import SmallFiles, files_of_folder
from tasks.source.changes.tokenizer import special_token_changes, tokenizer_changes

if TYPE_CHECKING:
    from registry.store import Store

COMPARISONS = (
    template_changes, special_token_changes, tokenizer_changes, generation_changes, config_changes, licence_changes
)  # fmt: skip


def changes_between(before: SmallFiles, after: SmallFiles) -> ChangeReport:
    """List the differences of two releases' small files, warnings first.

    Raises:
        SourceDamaged: a JSON file does not parse.
    """
    found = [change for compare in COMPARISONS for change in compare(before, after)]
    found.sort(key=lambda change: (change.severity != "warn", KINDS.index(change.kind)))
    unread = dict.fromkeys((*before.unread, *after.unread))
    return ChangeReport(before=before.name, after=after.name, changes=tuple(found), unread=tuple(unread))


def changes_against(production: Artifact | None, weights: Artifact, store: Store) -> ChangeReport | None:
    """Compare production with a release in the store.

    A quantized artifact has unchanged copies of its source's small files (`tasks/quantize/card.py`). Its config.json
    differs only in the fields that quantization adds, which are not compared. So production's folder stands for its
    source.

    Args:
        production: the serving artifact; None before there is one.
        weights: the release as published.
        store: of both.

    Returns:
        None if nothing serves yet.

    Raises:
        ArtifactMissing: the store does not hold one of them.
        SourceDamaged: a JSON file does not parse.
    """
    if production is None:
        return None
    before, after = (
        files_of_folder(store.path(artifact), f"{artifact.repo}@{artifact.commit[:12]}")
        for artifact in (production, weights)
    )
    return changes_between(before, after)
