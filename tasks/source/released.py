"""The last release of a line from a source, by what was started and downloaded: is a new commit more than documents?"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from registry.installation import Installation
from registry.store import Manifest
from tasks.source.pinned import Source
from tasks.source.provider import provider_of
from tasks.source.source_file import SourceFile
from weighbridge.errors import WeighbridgeError
from weighbridge.source_urls import HUB, kind_of


class Released(BaseModel):
    """A commit that was released."""

    model_config = ConfigDict(frozen=True)

    commit: str
    content: str
    """`Source.content`; empty if it was released before that was recorded."""
    at: str
    """ISO 8601, UTC."""

    def is_same(self, source: Source) -> bool:
        """Whether a release is another commit with the same files, documents excepted."""
        return self.commit != source.commit and self.content == source.content


def last_release(installation: Installation, line_name: str, repo: str) -> Released | None:
    """Find the last release of a line from a source: started by the watch, or downloaded by anybody's `release`.

    Args:
        installation: Its ledger and its store on this disk.
        line_name: The line.
        repo: The source, as records name it.

    Returns:
        None without one, or if its content is unknown and no longer to be learned.
    """
    started = [
        Released(commit=entry.decision.commit, content=entry.decision.content, at=entry.decided_at)
        for entry in installation.ledger(line_name).started(repo)
    ]
    downloaded = [
        Released(
            commit=manifest.artifact.commit,
            content=str(manifest.facts.get("content", "")),
            at=manifest.provenance.run_details.metadata.finished_on if manifest.provenance else "",
        )
        for manifest in _downloads(installation, line_name, repo)
    ]
    # Of two within one second, the one that the ledger has later.
    ordered = sorted([*downloaded, *started], key=lambda release: release.at)
    last = ordered[-1] if ordered else None
    if last is None or last.content:
        return last
    known = next((other.content for other in ordered if other.commit == last.commit and other.content), "")
    content = known or _content_at_source(installation, repo, last.commit)
    return last.model_copy(update={"content": content}) if content else None


def source_of(installation: Installation, line_name: str, source: Source, last: Released) -> Source | None:
    """Return the pinned source of the last release; None where it is neither in the store nor at its source any more.

    Args:
        installation: Its store, and the settings for its source.
        line_name: The line.
        source: Another commit with the same files, documents excepted.
        last: The release.
    """
    for manifest in _downloads(installation, line_name, source.repo):
        if manifest.artifact.commit == last.commit:
            files = tuple(
                SourceFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256) for file in manifest.files
            )
            return source.model_copy(update={"commit": last.commit, "files": files})
    if kind_of(source.repo) != HUB:
        return None
    try:
        return provider_of(installation.settings, source.repo).pin(last.commit)
    except WeighbridgeError:
        return None


def _downloads(installation: Installation, line_name: str, repo: str) -> list[Manifest]:
    store, found = installation.store, list[Manifest]()
    for name in store.listed(line_name, local_only=True):
        try:
            manifest = store.manifest(*name)
        except WeighbridgeError:
            continue  # damaged or gone: it says nothing
        if manifest.artifact.repo == repo and manifest.facts.get("made_by") == "download":
            found.append(manifest)
    return found


def _content_at_source(installation: Installation, repo: str, commit: str) -> str:
    """Ask for the content of an earlier commit, which only the Hub keeps; empty if it does not."""
    if kind_of(repo) != HUB:
        return ""
    try:
        return provider_of(installation.settings, repo).pin(commit).content
    except WeighbridgeError:
        return ""
