"""Two releases held against each other."""

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
    """What changed beside the weights, the gravest first.

    Raises:
        SourceDamaged: a file that should be JSON is not.
    """
    found = [one for compare in COMPARISONS for one in compare(before, after)]
    found.sort(key=lambda one: (one.severity != "warn", KINDS.index(one.kind)))
    unread = dict.fromkeys((*before.unread, *after.unread))
    return ChangeReport(before=before.name, after=after.name, changes=tuple(found), unread=tuple(unread))


def changes_against(production: Artifact | None, weights: Artifact, store: Store | None = None) -> ChangeReport | None:
    """What changed between what serves and a release that is in the store.

    A quantized artifact carries its source's small files as they were (`tasks/quantize/card.py`), and of config.json
    only what quantizing adds differs, which is not compared. So production's own folder stands for its source.

    Args:
        production: what serves; None before there is any.
        weights: the release as published.
        store: the installation's by default.

    Returns:
        None where nothing serves yet.

    Raises:
        ArtifactMissing: the store does not hold one of them.
        SourceDamaged: a file that should be JSON is not.
    """
    from registry.store import Store

    if production is None:
        return None
    store = store or Store()
    before, after = (files_of_folder(store.path(one), f"{one.repo}@{one.commit[:12]}") for one in (production, weights))
    return changes_between(before, after)
