"""The store at an fsspec URL: `s3://bucket/prefix`, `gs://…`, a mounted folder.

`<url>/<line>/<sha256>/model/…` first, then `manifest.sig`, and `manifest.json` last: an artifact is there
once its manifest is, so an upload that is cut leaves nothing that anybody would find. Object stores put
each object whole or not at all; a file that did not come whole is put again by the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.store.artifact import MANIFEST, MODEL, FileEntry, Manifest, damaged, sha256_of
from registry.store.signing import signature_path
from weighbridge.errors import DiskFull, SettingsInvalid, StoreUnreachable
from weighbridge.files import is_full, write_whole

TRANSFERS = 4
"""Files that are on their way at once."""
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az"}
"""They have no folders; asked for one, s3fs makes a bucket that a mistyped address named."""


class Remote:
    """A store that other machines share.

    Args:
        url: where, as fsspec writes it; credentials come from where its library looks (for S3 the AWS_* variables).

    Raises:
        SettingsInvalid: nothing that is installed knows such addresses.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        try:
            self._fs, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise SettingsInvalid(
                f"{url} cannot be used as a store: {error}.",
                "Install what it needs (for s3:// `pip install 'weighbridge[s3]'`), or correct the address.",
                where="WEIGHBRIDGE_STORE_URL",
            ) from None
        self._root = str(root).rstrip("/")

    def holds(self, line: str, digest: str) -> bool:
        """Whether an artifact is there, whole."""
        with self._reached():
            return bool(self._fs.exists(self._at(line, digest, MANIFEST)))

    def listed(self, line: str | None = None) -> list[tuple[str, str]]:
        """Line and digest of every artifact, or of a line's.

        Raises:
            StoreUnreachable: it did not answer.
        """
        with self._reached():
            self._fs.invalidate_cache()
            found = self._fs.glob(f"{self._root}/{line or '*'}/*/{MANIFEST}")
        parts = [str(path).split("/") for path in found]
        return [(one[-3], one[-2]) for one in parts]

    def manifest(self, line: str, digest: str) -> bytes | None:
        """The content of an artifact's manifest, or None where there is none."""
        with self._reached():
            return self._read(self._at(line, digest, MANIFEST))

    def put(self, entry: Path, manifest: Manifest, *, again: bool = False) -> None:
        """Copy an artifact there, manifest last; what is there already is left alone.

        Args:
            entry: the local entry, with `model/`, the manifest and its signature.
            again: whether manifest and signature are put even when they are there.

        Raises:
            StoreUnreachable: it did not answer, or refused.
        """
        line, digest = manifest.artifact.line, manifest.artifact.digest
        if not again and self.holds(line, digest):
            return
        self._each(manifest.files, lambda file: self._put_file(entry, line, digest, file))
        with self._reached():
            for path in (signature_path(entry / MANIFEST), entry / MANIFEST):
                if path.is_file():
                    self._fs.pipe_file(self._at(line, digest, path.name), path.read_bytes())

    def _put_file(self, entry: Path, line: str, digest: str, file: FileEntry) -> None:
        place = self._at(line, digest, f"{MODEL}/{file.path}")
        # A put that was cut left some of the files; an object that exists came whole.
        if self._fs.exists(place) and self._fs.info(place)["size"] == file.size_bytes:
            return
        if not OBJECT_STORES & set(_protocols(self._fs)):
            self._fs.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
        self._fs.put_file(str(entry / MODEL / file.path), place)

    def fetch(self, manifest: Manifest, content: bytes, entry: Path) -> None:
        """Bring an artifact into a local folder, each file held against the manifest.

        Args:
            manifest, content: what is to come, parsed and as it lies there.
            entry: an empty folder.

        Raises:
            ArtifactDamaged: what came is something else; the file is named.
            StoreUnreachable: it did not answer.
        """
        line, digest = manifest.artifact.line, manifest.artifact.digest

        def one(file: FileEntry) -> None:
            target = entry / MODEL / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(self._at(line, digest, f"{MODEL}/{file.path}"), str(target))
            if target.stat().st_size != file.size_bytes or sha256_of(target) != file.sha256:
                raise damaged(line, digest, file.path, f"{self.url}/{line}/{digest}")

        self._each(manifest.files, one)
        name = signature_path(entry / MANIFEST).name
        with self._reached():
            signature = self._read(self._at(line, digest, name))
        if signature is not None:
            write_whole(entry / name, signature)
        write_whole(entry / MANIFEST, content)

    def _each(self, files: tuple[FileEntry, ...], do: Callable[[FileEntry], None]) -> None:
        with self._reached(), ThreadPoolExecutor(TRANSFERS) as pool:
            waiting = [pool.submit(do, file) for file in files]
            try:
                for one in waiting:
                    one.result()
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
        """Every way in which a store does not answer, as the one named error."""
        unreached: tuple[type[Exception], ...] = (OSError, *_library_errors(self._fs))
        try:
            yield
        except unreached as error:
            if is_full(error):
                raise DiskFull(
                    "The disk became full while an artifact came from the store.", "Free some disk, then run it again."
                ) from None
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise StoreUnreachable(
                f"The store did not do what it was asked for ({reason}).",
                "Check WEIGHBRIDGE_STORE_URL, the credentials and the network, then run the same command again.",
                where=self.url,
            ) from error


def _protocols(filesystem: Any) -> tuple[str, ...]:
    named = filesystem.protocol
    return (named,) if isinstance(named, str) else tuple(named)


def _library_errors(filesystem: Any) -> tuple[type[Exception], ...]:
    """What s3fs lets through of its own library; everything else it turns into an OSError."""
    if "s3" not in _protocols(filesystem):
        return ()
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError)
