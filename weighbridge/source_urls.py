"""Addresses of sources: `hf://org/model`, `file:///folder`, `s3://bucket/prefix`.

The kinds are the files in tasks/source/providers/, each with the form of its addresses. Nothing here reads a source.

Records name a repository of the Hub as `org/model`, as they did before there were other kinds, and any other source by
its whole address.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from weighbridge import plugins
from weighbridge.errors import SourceInvalid
from weighbridge.suggestions import did_you_mean

PROVIDERS = "tasks.source.providers"
HOW_TO = "docs/how-to/not-on-the-hub.md"
HUB = "hf"
FORMS = "hf://org/model, file:///folder or s3://bucket/prefix"
_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:/tree/([\w./-]+))?/?")
_SCHEME = re.compile(r"(?P<kind>[A-Za-z][A-Za-z0-9+.-]*):/*(?P<rest>.*)", re.DOTALL)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_DIGEST = re.compile(r"(?P<url>.*)@(?P<revision>[0-9a-f]{64})", re.DOTALL)


@cache
def kinds() -> tuple[str, ...]:
    """List the kinds of sources, sorted: the part of an address before `://`."""
    package = find_spec(PROVIDERS)
    assert package and package.submodule_search_locations
    files = (path.stem for path in Path(package.submodule_search_locations[0]).glob("*.py"))
    return tuple(sorted(stem for stem in files if not stem.startswith("_")))


def canonical(url: str) -> str:
    """Return the one form of an address.

    Raises:
        ValueError: It is none; the message says what is wrong and how the nearest right one reads.
        PluginInvalid: The file of its kind cannot be loaded.
    """
    if any(character < " " or character == "\x7f" for character in url):
        raise ValueError(f"must read {FORMS}; this one has control characters")
    kind, mark, _ = url.partition("://")
    if mark and kind in kinds():
        return cast(str, plugins.load_file(PROVIDERS, kind, "canonical", HOW_TO)(url))  # type: ignore[operator]
    raise ValueError(f"must read {FORMS}{_nearest(url)}")


def checked(url: str) -> str:
    """Return the one form of an address that somebody typed.

    Raises:
        SourceInvalid: It is none.
    """
    try:
        return canonical(url)
    except ValueError as error:
        raise SourceInvalid(
            f"The source {url[:200]!r} {error}.", f"Correct it; {HOW_TO} shows each kind.", where=url[:200]
        ) from None


def looks_like_url(text: str) -> bool:
    """Whether somebody meant an address, right or wrong, and no name and no folder."""
    match = _SCHEME.fullmatch(text)
    return bool(match) and (":/" in text or (match is not None and match["kind"].lower() in kinds()))


def repo_of(url: str) -> str:
    """Return the name that records have for a source: `org/model`, or the whole address."""
    return url.removeprefix(f"{HUB}://")


def url_of(repo: str) -> str:
    """Return the address of a source by the name that records have for it."""
    return repo if "://" in repo else f"{HUB}://{repo}"


def kind_of(repo: str) -> str:
    """Return the kind of a source: the part of its address before `://`."""
    return url_of(repo).partition("://")[0]


def uri_of(repo: str, commit: str) -> str:
    """Return a source and its commit as the store, MLflow and the ledger record them."""
    return f"{url_of(repo)}@{commit}"


def split_revision(target: str) -> tuple[str, str | None]:
    """Split `hf://org/model@revision`; elsewhere a revision is a whole digest, because a name may hold an `@`."""
    if target.startswith(f"{HUB}://"):
        url, _, revision = target.partition("@")
        return url, revision or None
    match = _DIGEST.fullmatch(target)
    return (match["url"], match["revision"]) if match else (target, None)


def revised(url: str, revision: str) -> str:
    """Join an address and a line's revision, which only a repository of the Hub has."""
    return f"{url}@{revision}" if url.startswith(f"{HUB}://") else url


def _nearest(url: str) -> str:
    """Say how the nearest right address reads; empty where none is near."""
    if page := _HUB_PAGE.fullmatch(url):
        return f": write hf://{page[1]}" + (f", and `revision: {page[2]}` beside it" if page[2] else "")
    if url.startswith(("/", "./", "../", "~", ".")):
        return f": write {folder_url(url)}"
    if match := _SCHEME.fullmatch(url):
        kind, rest = match["kind"].lower(), match["rest"]
        if kind == "file":
            return f": write {folder_url('/' + rest if url[5:6] == '/' else rest)}"
        if kind in kinds():
            return f": write {kind}://{rest}"
        known = did_you_mean(kind, kinds()) or f"; known: {', '.join(kinds())}"
        return f"; there is no kind of source called {match['kind']!r}{known.removesuffix('?')}"
    if _REPOSITORY.fullmatch(url):
        return f": write hf://{url} for the Hub" + (f", {folder_url(url)} for the folder" if Path(url).is_dir() else "")
    return ""


def folder_url(path: str) -> str:
    """Return the address of a folder, `~` and relative paths resolved."""
    try:
        folder = Path(path).expanduser()
    except RuntimeError:
        folder = Path(path)
    return Path(*folder.absolute().parts).as_uri()
