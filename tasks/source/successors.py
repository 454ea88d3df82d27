"""What is new at a line's source: its head, and what its author has published since. At most two requests.

The first asks for the head of the followed branch. The second, only where the line has patterns, lists the
author's repositories, newest first, back to the one that the line follows: what is older is no successor.
Names and sizes are held against the patterns here; architectures, which a listing does not tell for sure,
when a successor's config.json is read (`triage.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict

from registry.watch.ledger import Kind
from tasks.source.client import TIMEOUT_SECONDS, call_hub
from weighbridge.errors import SourceUnreachable
from weighbridge.line import Line
from weighbridge.settings import load_settings

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

T = TypeVar("T")

LISTED = 500
"""An author's newest repositories that are looked at; the Hub sends as many in one answer."""
FIELDS = ("sha", "createdAt", "gated", "safetensors", "tags", "disabled")
"""What a listing tells of each; cards and configs would make it megabytes."""
BILLION = 1e9


class ListedCommit(BaseModel):
    """A commit that the watch has to decide about."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    repo: str
    commit: str
    """40 hex digits."""
    created_at: datetime
    """When the repository was made."""
    gated: bool
    parameters: int | None = None
    """As the Hub counts them in the headers; None where it does not say."""
    licence: str | None = None
    """As the Hub tags it; None where it does not, or where the card names one of its own."""


class SourceListing(BaseModel):
    """What is at a line's source now."""

    model_config = ConfigDict(frozen=True)

    head: ListedCommit
    successors: tuple[ListedCommit, ...] = ()
    truncated: bool = False
    """Whether the author has more new repositories than were looked at."""


def list_sources(line: Line) -> SourceListing:
    """Look at a line's source.

    Raises:
        SourceUnknown: no such repository or branch, or no right to see it.
        SourceUnreachable: the Hub did not answer, or not as a Hub does.
    """
    head = _head(line)
    if not line.watch.successors:
        return SourceListing(head=head)
    author = line.watch.author or line.repo.split("/")[0]
    newer = call_hub(lambda: _readable(lambda: _newer(author, head)), repo=author, revision="main")
    found = tuple(one for one in newer if one.repo != line.repo and _matches(line, one))
    return SourceListing(head=head, successors=found, truncated=len(newer) == LISTED)


def _head(line: Line) -> ListedCommit:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=load_settings().hf_endpoint)

    def head() -> ListedCommit | None:
        return _found("commit", api.model_info(line.repo, revision=line.revision, timeout=TIMEOUT_SECONDS))

    found = call_hub(lambda: _readable(head), repo=line.repo, revision=line.revision)
    if found is None:
        raise _no_hub()
    return found


def _newer(author: str, head: ListedCommit) -> list[ListedCommit]:
    """The author's repositories that are younger than the head's, newest first."""
    from huggingface_hub.hf_api import ModelInfo
    from huggingface_hub.utils import build_hf_headers, paginate

    # What HfApi.list_models does, with a time limit: it has none (huggingface_hub 1.33), and a Hub that hangs
    # would hold the watch for ever.
    pages = paginate(
        f"{load_settings().hf_endpoint}/api/models",
        params={"author": author, "sort": "createdAt", "limit": LISTED, "expand": list(FIELDS)},
        headers=build_hf_headers(),
        timeout=TIMEOUT_SECONDS,
    )
    newer: list[ListedCommit] = []
    for fields in islice(pages, LISTED):
        found = _found("successor", ModelInfo(**fields))
        if found is None:
            continue
        if found.created_at <= head.created_at:
            break
        newer.append(found)
    return newer


def _found(kind: Kind, info: ModelInfo) -> ListedCommit | None:
    """The repository as the Hub tells of it; None for one that is disabled, or has no commit yet."""
    if info.disabled or info.created_at is None or not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
        return None
    licences = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    return ListedCommit(
        kind=kind,
        repo=info.id,
        commit=str(info.sha),
        created_at=info.created_at,
        gated=bool(info.gated),
        parameters=info.safetensors.total if info.safetensors else None,
        licence=licences[0] if licences and licences[0] != "other" else None,
    )


def _matches(line: Line, found: ListedCommit) -> bool:
    """Whether a repository's name and size are those of a successor; a size that is not told rules nothing out."""
    name = found.repo.split("/")[-1].lower()
    if not any(fnmatchcase(name, pattern.lower()) for pattern in line.watch.successors):
        return False
    if line.watch.parameters_billion is None or found.parameters is None:
        return True
    fewest, most = line.watch.parameters_billion
    return fewest <= found.parameters / BILLION <= most


def _readable(answer: Callable[[], T]) -> T:
    try:
        return answer()
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise _no_hub() from None


def _no_hub() -> SourceUnreachable:
    return SourceUnreachable(
        "What answers there is not a Hub.", "Correct HF_ENDPOINT, or unset it.", where=load_settings().hf_endpoint
    )
