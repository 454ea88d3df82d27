"""The store at an fsspec URL: `s3://bucket/prefix`, `gs://…`, a mounted folder.

`<url>/<line>/<sha256>/model/…` is written first, then `provenance.json` and `manifest.sig`, and `manifest.json` last.
An artifact exists once its manifest does, so an interrupted upload leaves nothing that a reader finds. Object stores
write each object whole or not at all; an incomplete file of another store is written again by the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.store.artifact import (
    DIGEST,
    LINE,
    MANIFEST,
    MODEL,
    SIGNATURE,
    SMALL_BYTES,
    STATEMENT,
    FileEntry,
    Manifest,
    damaged,
    read_manifest,
)
from weighbridge.errors import ArtifactDamaged, DiskFull, SettingsInvalid, StoreUnreachable
from weighbridge.files import is_full, write_whole

TRANSFERS = 4
"""Files that are transferred at once."""
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az"}
"""Protocols without folders. Asked for a folder, s3fs creates the bucket of a mistyped address."""


class Remote:
    """A store that is shared with other machines.

    Args:
        url: Address for fsspec. Credentials are found by its library (for S3 in the AWS_* variables).

    Raises:
        SettingsInvalid: No installed library handles such addresses.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        try:
            self._fs, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise SettingsInvalid(
                f"{url} cannot be used as a store: {error}.",
                "Install its library (for s3:// `pip install 'weighbridge[s3]'`), or correct the address.",
                where="WEIGHBRIDGE_STORE_URL",
            ) from None
        self._root = str(root).rstrip("/")

    def holds(self, line: str, digest: str) -> bool:
        """Return whether an artifact is there, whole."""
        with self._reached():
            return bool(self._fs.exists(self._at(line, digest, MANIFEST)))

    def listed(self, line: str | None = None) -> list[tuple[str, str]]:
        """List line and digest of every artifact, or of a line's.

        Raises:
            StoreUnreachable: The store did not answer.
        """
        with self._reached():
            self._fs.invalidate_cache()
            found = self._fs.glob(f"{self._root}/{line or '*'}/*/{MANIFEST}")
        # Others can write to it: a key is a line's name, a digest and the manifest's name below our root, or not ours.
        keys = [str(path).removeprefix(f"{self._root}/").split("/") for path in found]
        return [
            (key[0], key[1]) for key in keys if len(key) == 3 and LINE.fullmatch(key[0]) and DIGEST.fullmatch(key[1])
        ]

    def manifest(self, line: str, digest: str) -> bytes | None:
        """Read an artifact's manifest; None if there is none."""
        with self._reached():
            return self._read(self._at(line, digest, MANIFEST))

    def signed(self, line: str, digest: str) -> tuple[bytes, bytes | None] | None:
        """Read an artifact's manifest with its signature; None if there is no manifest."""
        content = self.manifest(line, digest)
        if content is None:
            return None
        with self._reached():
            return content, self._read(self._at(line, digest, SIGNATURE))

    def looks_whole(self, manifest: Manifest) -> bool:
        """Return whether an artifact's objects are all there and have the right sizes. `fetch` checks their content.

        Raises:
            StoreUnreachable: The store did not answer.
        """
        line, digest = manifest.artifact.line, manifest.artifact.digest
        content = self.manifest(line, digest)
        if content is None:
            return False
        try:
            expected = {
                f"{MODEL}/{file.path}": file.size_bytes for file in read_manifest(content, line, digest, self.url).files
            }
        except ArtifactDamaged:
            return False
        with self._reached():
            self._fs.invalidate_cache()
            found = self._fs.find(self._at(line, digest, ""), detail=True)
        root = self._at(line, digest, "")
        sizes = {str(path).removeprefix(root): about["size"] for path, about in found.items()}
        return all(sizes.get(path) == size for path, size in expected.items()) and SIGNATURE in sizes

    def put(self, entry: Path, manifest: Manifest, *, overwrite: bool = False) -> None:
        """Upload an artifact, manifest last.

        Args:
            entry: Local folder with `model/`, the manifest and its signature.
            manifest: The manifest, parsed.
            overwrite: Whether to upload files that are there with the right size.

        Raises:
            StoreUnreachable: The store did not answer, or refused.
        """
        line, digest = manifest.artifact.line, manifest.artifact.digest
        self._for_each(manifest.files, lambda file: self._put_file(entry, line, digest, file, overwrite))
        self.put_manifest(entry, manifest)

    def put_manifest(self, entry: Path, manifest: Manifest) -> None:
        """Upload an artifact's manifest, after its signature.

        Raises:
            StoreUnreachable: The store did not answer, or refused.
        """
        line, digest = manifest.artifact.line, manifest.artifact.digest
        with self._reached():
            for path in (entry / STATEMENT, entry / SIGNATURE, entry / MANIFEST):
                if path.is_file():
                    self._fs.pipe_file(self._at(line, digest, path.name), path.read_bytes())

    def _put_file(self, entry: Path, line: str, digest: str, file: FileEntry, overwrite: bool) -> None:
        place = self._at(line, digest, f"{MODEL}/{file.path}")
        # An interrupted upload left some of the files.
        if not overwrite and self._fs.exists(place) and self._fs.info(place)["size"] == file.size_bytes:
            return
        if not OBJECT_STORES & set(_protocols(self._fs)):
            self._fs.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
        self._fs.put_file(str(entry / MODEL / file.path), place)

    def fetch(self, manifest: Manifest, content: bytes, entry: Path) -> None:
        """Download an artifact into a local folder. The caller verifies it there.

        Args:
            manifest: Manifest of the artifact, parsed.
            content: The manifest's bytes in the store.
            entry: An empty folder.

        Raises:
            ArtifactDamaged: A file is missing or has another size than in the manifest; it is named.
            StoreUnreachable: The store did not answer.
        """
        line, digest = manifest.artifact.line, manifest.artifact.digest

        def fetch_file(file: FileEntry) -> None:
            place = self._at(line, digest, f"{MODEL}/{file.path}")
            if self._size(place) != file.size_bytes:
                raise self.damaged(damaged(line, digest, file.path, f"{self.url}/{line}/{digest}"))
            target = entry / MODEL / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(place, str(target))

        self._for_each(manifest.files, fetch_file)
        for name in (STATEMENT, SIGNATURE):
            with self._reached():
                found = self._read(self._at(line, digest, name))
            if found is not None:
                write_whole(entry / name, found)
        write_whole(entry / MANIFEST, content)

    def damaged(self, error: ArtifactDamaged) -> ArtifactDamaged:
        """Make the error for what was fetched from here, of the error for the local copy."""
        return ArtifactDamaged(
            error.what,
            "Where a sound copy is, run `weighbridge store push DIGEST`; else `weighbridge release LINE --fresh`.",
            where=self.url,
        )

    def _for_each(self, files: tuple[FileEntry, ...], transfer: Callable[[FileEntry], None]) -> None:
        with self._reached(), ThreadPoolExecutor(TRANSFERS) as pool:
            transfers = [pool.submit(transfer, file) for file in files]
            try:
                for running in transfers:
                    running.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _at(self, line: str, digest: str, path: str) -> str:
        return f"{self._root}/{line}/{digest}/{path}"

    def _read(self, place: str) -> bytes | None:
        """Read a small object; None if it is missing, too large to be one, or no plain file."""
        size = self._size(place)
        return None if size is None or size > SMALL_BYTES else bytes(self._fs.cat_file(place))

    def _size(self, place: str) -> int | None:
        """Size of an object; None if it is missing. On a mounted folder a pipe would be waited on for ever."""
        try:
            about = self._fs.info(place)
        except FileNotFoundError:
            return None
        return int(about["size"]) if about["type"] == "file" and not about.get("islink") else None

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn every failure of the store's library into a named error."""
        failures: tuple[type[Exception], ...] = (OSError, *_library_errors(self._fs))
        try:
            yield
        except failures as error:
            if is_full(error):
                raise DiskFull(
                    "The disk became full while an artifact was fetched from the store.",
                    "Free some disk, then run the command again.",
                ) from None
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise StoreUnreachable(
                f"The store did not answer, or refused ({reason}).",
                "Check WEIGHBRIDGE_STORE_URL, the credentials and the network, then run the same command again.",
                where=self.url,
            ) from error


def _protocols(filesystem: Any) -> tuple[str, ...]:
    named = filesystem.protocol
    return (named,) if isinstance(named, str) else tuple(named)


def _library_errors(filesystem: Any) -> tuple[type[Exception], ...]:
    """Errors of its own library that s3fs lets through. It turns all others into an OSError."""
    if "s3" not in _protocols(filesystem):
        return ()
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError)
