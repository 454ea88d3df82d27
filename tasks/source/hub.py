"""Pin a release on the Hub: resolve a repository and a branch to one commit and its files."""

from __future__ import annotations

from tasks.source.answers import ListedFile, ask_model
from tasks.source.client import Hub
from tasks.source.licences import licence_flaws, licence_of
from tasks.source.pinned import Source, needed_files
from tasks.source.small_files import fetch_verified, read_small_files
from tasks.source.source_file import SourceFile
from weighbridge.errors import SourceUnreachable


def pin_repository(hub: Hub, repo: str, revision: str) -> Source:
    """Resolve a repository to one commit.

    Args:
        hub: the Hub with the repository.
        repo: `org/model`.
        revision: a branch, tag or commit.

    Raises:
        SourceUnknown: no such repository or revision, or no right to read it.
        SourceUnreachable: the Hub did not answer.
        SourceDamaged: a small file does not match its hash.
    """
    info = ask_model(hub, repo, revision, files=True)
    if info.sha is None:
        raise SourceUnreachable(
            f"The Hub named no commit for {repo} at {revision!r}.", "Correct HF_ENDPOINT, or unset it.", hub.endpoint
        )
    files = tuple(_file(hub, listed) for listed in info.files)
    commit = info.sha
    small = read_small_files(f"{repo}@{commit[:12]}", files, lambda file: fetch_verified(hub, repo, commit, file))
    needed = needed_files(file.path for file in files)
    return Source(
        repo=repo,
        commit=commit,
        licence=licence_of(small.card),
        gated=bool(info.gated),
        config=small.config,
        files=tuple(file for file in files if file.path in needed),
        ignored=tuple(file.path for file in files if file.path not in needed),
        flaws=(*small.flaws, *licence_flaws(small.card, info.card, info.licence_tag)),
    )


def _file(hub: Hub, listed: ListedFile) -> SourceFile:
    size = listed.lfs.size if listed.lfs else listed.size
    if size is None:
        raise hub.invalid_answer(f"it gives no size of {listed.path[:200]!r}")
    return SourceFile(
        path=listed.path,
        size_bytes=size,
        sha256=listed.lfs.sha256 if listed.lfs else None,
        git_oid=listed.blob_id,
    )
