"""The store at an fsspec URL: `s3://bucket/prefix`, `gs://…`, a mounted folder.

`<url>/<line>/<sha256>/model/…` is written first, then `manifest.sig`, and `manifest.json` last. An artifact exists once
its manifest does, so an interrupted upload leaves nothing that a reader finds. Object stores write each object whole or
not at all; an incomplete file of another store is written again by the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.signing.manifests import signature_path
from registry.store.artifact import MANIFEST, MODEL, FileEntry, Manifest, damaged, sha256_of
from weighbridge.errors import DiskFull, SettingsInvalid, StoreUnreachable
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
        parts = [str(path).split("/") for path in found]
        return [(path[-3], path[-2]) for path in parts]

    def manifest(self, line: str, digest: str) -> bytes | None:
        """Read an artifact's manifest; None if there is none."""
        with self._reached():
            return self._read(self._at(line, digest, MANIFEST))

    def put(self, entry: Path, manifest: Manifest, *, overwrite: bool = False) -> None:
        """Upload an artifact, manifest last; an existing one is left alone.

        Args:
            entry: Local folder with `model/`, the manifest and its signature.
            manifest: The manifest, parsed.
            overwrite: Whether to upload manifest and signature even if they exist.

        Raises:
            StoreUnreachable: The store did not answer, or refused.
        """
        line, digest = manifest.artifact.line, manifest.artifact.digest
        if not overwrite and self.holds(line, digest):
            return
        self._for_each(manifest.files, lambda file: self._put_file(entry, line, digest, file))
        with self._reached():
            for path in (signature_path(entry / MANIFEST), entry / MANIFEST):
                if path.is_file():
                    self._fs.pipe_file(self._at(line, digest, path.name), path.read_bytes())

    def _put_file(self, entry: Path, line: str, digest: str, file: FileEntry) -> None:
        place = self._at(line, digest, f"{MODEL}/{file.path}")
        # An interrupted upload left some of the files.
        if self._fs.exists(place) and self._fs.info(place)["size"] == file.size_bytes:
            return
        if not OBJECT_STORES & set(_protocols(self._fs)):
            self._fs.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
        self._fs.put_file(str(entry / MODEL / file.path), place)

    def fetch(self, manifest: Manifest, content: bytes, entry: Path) -> None:
        """Download an artifact into a local folder, each file checked against the manifest.

        Args:
            manifest: Manifest of the artifact, parsed.
            content: The manifest's bytes in the store.
            entry: An empty folder.

        Raises:
            ArtifactDamaged: A file differs from the manifest; it is named.
            StoreUnreachable: The store did not answer.
        """
        line, digest = manifest.artifact.line, manifest.artifact.digest

        def fetch_file(file: FileEntry) -> None:
            target = entry / MODEL / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(self._at(line, digest, f"{MODEL}/{file.path}"), str(target))
            if target.stat().st_size != file.size_bytes or sha256_of(target) != file.sha256:
                raise damaged(line, digest, file.path, f"{self.url}/{line}/{digest}")

        self._for_each(manifest.files, fetch_file)
        name = signature_path(entry / MANIFEST).name
        with self._reached():
            signature = self._read(self._at(line, digest, name))
        if signature is not None:
            write_whole(entry / name, signature)
        write_whole(entry / MANIFEST, content)

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
        try:
            return bytes(self._fs.cat_file(place))
        except FileNotFoundError:
            return None

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
