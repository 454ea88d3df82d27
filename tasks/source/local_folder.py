"""The folder that an address names, for commands that read a model from a folder of this machine."""

from __future__ import annotations

from pathlib import Path

from tasks.source.providers.file import folder_of
from weighbridge.errors import SourceInvalid
from weighbridge.source_urls import checked, kind_of, looks_like_url


def folder_at(target: str) -> Path:
    """Return the folder of a path or of `file:///folder`.

    Raises:
        SourceInvalid: It is an address of another kind, or none; the message says how to get a folder of it.
    """
    if not looks_like_url(target):
        return Path(target).expanduser()
    url = checked(target)
    if kind_of(url) != "file":
        raise SourceInvalid(
            f"{url} is not on this machine, and this command reads a folder.",
            "Make it the `source` of a line, and run `weighbridge release LINE --scheme bf16`; or name a folder.",
            where=url,
        )
    return folder_of(url)
