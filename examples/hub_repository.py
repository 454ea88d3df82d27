"""Repositories of the stand-in for the Hub on disk: how they are published and read.

A repository is `ROOT/ORG/MODEL/` with one folder for each commit, `<commit>.json` beside it (sizes and hashes, so that
nothing is hashed while serving), `refs/<branch>`, and, for a gated repository, `gated.txt` with one token a line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from registry.store import sha256_of
from weighbridge.files import write_whole

COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"\w[\w.-]*")
# What the Hub's default .gitattributes sends to LFS; everything above 10 MB has to go there too.
LFS_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack"}
LFS_ABOVE_BYTES = 10 * 10**6
POINTER_BYTES = 134


class Blob(BaseModel):
    """One file at a commit."""

    size: int
    sha256: str
    git_oid: str

    def is_lfs(self, path: str) -> bool:
        """True if the Hub would keep it as a large file."""
        return Path(path).suffix in LFS_SUFFIXES or self.size > LFS_ABOVE_BYTES

    def in_listing(self, path: str) -> dict[str, Any]:
        """Describe a file as the Hub does in a model's description."""
        lfs = {"lfs": {"sha256": self.sha256, "size": self.size, "pointerSize": POINTER_BYTES}}
        return {"size": self.size, "blobId": self.git_oid} | (lfs if self.is_lfs(path) else {})

    def in_tree(self, path: str) -> dict[str, Any]:
        """Describe a file as the Hub does in the listing of a tree."""
        lfs = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": POINTER_BYTES}}
        return {"size": self.size, "oid": self.git_oid} | (lfs if self.is_lfs(path) else {})


class HubError(Exception):
    """An error that the Hub answers with."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


def publish(root: Path, repo: str, folder: Path, branch: str = "main") -> str:
    """Make a folder's files the newest commit of a repository.

    Args:
        root: folder of the stand-in's repositories; created if missing.
        repo: `org/model`.
        folder: its files, copied.
        branch: moved to the new commit.

    Returns:
        The commit, 40 hex digits over names and contents: the same files give the same commit.
    """
    home = root / repo
    incoming = home / f".incoming-{os.getpid()}"
    shutil.rmtree(incoming, ignore_errors=True)
    shutil.copytree(folder, incoming)
    blobs = _blobs(incoming)
    listing = json.dumps([[path, blob.sha256] for path, blob in blobs.items()])
    commit = hashlib.sha1(listing.encode()).hexdigest()
    if (home / commit).is_dir():
        shutil.rmtree(incoming)
    else:
        write_whole(home / f"{commit}.json", json.dumps({path: blob.model_dump() for path, blob in blobs.items()}))
        incoming.rename(home / commit)
    write_whole(home / "refs" / branch, commit)
    return commit


def misname(root: Path, repo: str, commit: str, path: str, other: str) -> None:
    """List a file of a commit under another name, as only a hostile Hub would."""
    listing = root / repo / f"{commit}.json"
    blobs = json.loads(listing.read_text())
    write_whole(listing, json.dumps({other if name == path else name: blob for name, blob in blobs.items()}))


def swap_content(root: Path, repo: str, commit: str, path: str, content: bytes) -> None:
    """Change a file of a commit while its listing keeps the old size and hashes."""
    write_whole(root / repo / commit / path, content)


def _blobs(folder: Path) -> dict[str, Blob]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): Blob(
            size=path.stat().st_size, sha256=sha256_of(path), git_oid=_git_oid(path)
        )
        for path in paths
    }


def _git_oid(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _stamp(folder: Path) -> str:
    return datetime.fromtimestamp(folder.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Repository:
    """A repository on disk."""

    def __init__(self, root: Path, org: str, name: str) -> None:
        self.id = f"{org}/{name}"
        self.folder = root / org / name
        if not (NAME.fullmatch(org) and NAME.fullmatch(name) and (self.folder / "refs").is_dir()):
            raise HubError(404, "RepoNotFound", "Repository not found")

    def commit_of(self, revision: str) -> str:
        """Return the commit of a branch or of a commit's own name."""
        if COMMIT.fullmatch(revision) and (self.folder / revision).is_dir():
            return revision
        ref = self.folder / "refs" / revision
        if NAME.fullmatch(revision) and ref.is_file():
            return ref.read_text()
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def blobs(self, commit: str) -> dict[str, Blob]:
        """Return the files of a commit by path."""
        listing = json.loads((self.folder / f"{commit}.json").read_text())
        return {path: Blob.model_validate(blob) for path, blob in listing.items()}

    @property
    def gated(self) -> bool:
        """True if only those with a granted token may read its files."""
        return (self.folder / "gated.txt").is_file()

    def require_access(self, authorization: str) -> None:
        """Refuse clients that may not read the files, as the Hub does."""
        if not self.gated:
            return
        if not authorization:
            raise HubError(401, "GatedRepo", f"Access to model {self.id} is restricted. You must be authenticated.")
        if authorization.removeprefix("Bearer ") not in (self.folder / "gated.txt").read_text().split():
            raise HubError(403, "GatedRepo", f"Access to model {self.id} is restricted and you are not on the list.")

    def describe(self, commit: str, with_blobs: bool) -> dict[str, Any]:
        """Describe a model at a commit as the Hub does."""
        card = self._card(commit)
        commits = [path for path in self.folder.iterdir() if COMMIT.fullmatch(path.name)]
        return {
            "_id": commit[:24],
            "id": self.id,
            "modelId": self.id,
            "author": self.id.split("/")[0],
            "sha": commit,
            "lastModified": _stamp(self.folder / commit),
            "createdAt": min(_stamp(path) for path in commits),
            "private": False,
            "disabled": False,
            "gated": "manual" if self.gated else False,
            "tags": [f"license:{card['license']}"] if "license" in card else [],
            "cardData": card,
            "siblings": [
                {"rfilename": path, **(blob.in_listing(path) if with_blobs else {})}
                for path, blob in self.blobs(commit).items()
            ],
        }

    def _card(self, commit: str) -> dict[str, Any]:
        path = self.folder / commit / "README.md"
        parts = path.read_text().split("---\n", 2) if path.is_file() else []
        card = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else {}
        return card if isinstance(card, dict) else {}
