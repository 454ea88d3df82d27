"""One file of a release as the Hub announces it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class SourceFile(BaseModel):
    """One file of a release, with its expected size and hash."""

    model_config = ConfigDict(frozen=True)

    path: str
    size_bytes: int
    sha256: str | None = None
    """Of a large (LFS) file."""
    git_oid: str | None = None
    """Git's blob id: SHA-1 over `blob <size>\\0` and the bytes; for a large file, of its pointer."""

    @property
    def is_weights(self) -> bool:
        """Whether it holds tensors."""
        return self.path.endswith(".safetensors")
