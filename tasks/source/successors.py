"""List a line's source: the head of its branch and its author's newer repositories, in at most two requests.

The first request gets the head of the followed branch. The second, only for a line with successor patterns, lists the
author's repositories from the newest back to the followed one; older repositories are not successors. Names and sizes
are matched here. Architectures, which a listing does not state reliably, are checked in a successor's config.json
(`triage.py`).
"""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict

from registry.watch.ledger import Kind
from tasks.source.answers import Model, ask_listing, ask_model
from tasks.source.client import Hub
from weighbridge.line import Line

LISTED = 500
"""Newest repositories of an author that are listed; the Hub sends as many in one answer."""
FIELDS = ("sha", "createdAt", "gated", "safetensors", "tags", "disabled")
"""Fields requested for each repository; cards and configs would make the answer megabytes."""
BILLION = 1e9


class ListedCommit(BaseModel):
    """A commit at a line's source that the watch has to decide about."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    repo: str
    commit: str
    """40 hex digits."""
    created_at: datetime
    """Creation of the repository."""
    gated: bool
    parameters: int | None = None
    """The Hub's count from the headers; None without one."""
    licence: str | None = None
    """The Hub's licence tag; None without one, or for `other`."""


class SourceListing(BaseModel):
    """The commits at a line's source now."""

    model_config = ConfigDict(frozen=True)

    head: ListedCommit
    successors: tuple[ListedCommit, ...] = ()
    truncated: bool = False
    """True if the author has more new repositories than were listed."""


def list_sources(hub: Hub, line: Line) -> SourceListing:
    """List the head of a line's source and its successors.

    Raises:
        SourceUnknown: no such repository or branch, or no right to see it.
        SourceUnreachable: the Hub did not answer, or the answer is not a Hub's.
    """
    head = _head(hub, line)
    if not line.watch.successors:
        return SourceListing(head=head)
    author = line.watch.author or line.repo.split("/")[0]
    newer = _newer(hub, author, head)
    found = tuple(candidate for candidate in newer if candidate.repo != line.repo and _matches(line, candidate))
    return SourceListing(head=head, successors=found, truncated=len(newer) == LISTED)


def _head(hub: Hub, line: Line) -> ListedCommit:
    found = _found("commit", ask_model(hub, line.repo, line.revision))
    if found is None:
        raise hub.invalid_answer("it names no commit and date, or the repository is disabled")
    return found


def _newer(hub: Hub, author: str, head: ListedCommit) -> list[ListedCommit]:
    """The author's repositories that are newer than the head's, newest first."""
    newer: list[ListedCommit] = []
    for model in ask_listing(hub, author, {"sort": "createdAt", "limit": LISTED, "expand": list(FIELDS)})[:LISTED]:
        found = _found("successor", model)
        if found is None:
            continue
        if found.created_at <= head.created_at:
            break
        newer.append(found)
    return newer


def _found(kind: Kind, model: Model) -> ListedCommit | None:
    """The commit of a repository in the Hub's answer; None if it is disabled or has no commit yet."""
    if model.disabled or model.created_at is None or model.sha is None or "/" not in model.id:
        return None
    licence = model.licence_tag
    return ListedCommit(
        kind=kind,
        repo=model.id,
        commit=model.sha,
        created_at=model.created_at,
        gated=bool(model.gated),
        parameters=model.safetensors.total if model.safetensors else None,
        licence=licence if licence != "other" else None,
    )


def _matches(line: Line, found: ListedCommit) -> bool:
    """Whether a repository's name and size match the successor patterns; an unknown size matches."""
    name = found.repo.split("/")[-1].lower()
    if not any(fnmatchcase(name, pattern.lower()) for pattern in line.watch.successors):
        return False
    if line.watch.parameters_billion is None or found.parameters is None:
        return True
    fewest, most = line.watch.parameters_billion
    return fewest <= found.parameters / BILLION <= most
