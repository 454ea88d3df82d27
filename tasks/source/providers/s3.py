"""`s3://bucket/prefix`: a model in a bucket of any S3-compatible server.

Credentials, region and endpoint are found by boto3: the `AWS_*` variables, profiles, roles. An object's SHA-256 is
taken from the server where it states one of the whole object; else the object is read once for it. Either is only a
name until the bytes were hashed at the copy. ETags are no hashes of content: they only tell whether an object was
written since it was read.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from typing import Any

from tasks.source.providers._by_content import MAX_FILES, ByContent, Listed, Listing
from tasks.source.providers._hashes import Stamp
from weighbridge.errors import InstallationBroken, SourceStalled, SourceUnknown, SourceUnreachable
from weighbridge.settings import Settings

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
READ_BYTES = 2**20
ATTEMPTS = 5
"""Connections in a row that bring nothing, before a file is given up."""
TIMEOUT_SECONDS = 30


def canonical(url: str) -> str:
    """Return the one form of an address: no slash at its end.

    Raises:
        ValueError: It names no bucket.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise ValueError("must read s3://bucket/prefix")
    if not _BUCKET.fullmatch(bucket):
        near = bucket.lower()
        write = f": write s3://{near}/{prefix}".rstrip("/") if _BUCKET.fullmatch(near) else ""
        raise ValueError(f"must read s3://bucket/prefix, and no bucket is called {bucket!r}{write}")
    if {".", ".."} & set(prefix.split("/")):
        raise ValueError("must read s3://bucket/prefix, with the whole prefix and without `..`")
    return f"s3://{bucket}/{prefix}".rstrip("/")


class Provider(ByContent):
    """A prefix of a bucket.

    Args:
        settings: Of the installation.
        repo: Its address.
    """

    def __init__(self, settings: Settings, repo: str) -> None:
        super().__init__(settings, repo)
        self._endpoint = settings.source_s3_endpoint
        self._bucket, _, prefix = repo.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    @property
    def versions(self) -> Mapping[str, str]:
        """Version of the bucket's client."""
        return {"boto3": version("boto3")}

    def contents(self) -> Listing:
        """List the objects of the prefix itself, not of those below it.

        Raises:
            SourceUnknown: There is no such bucket or prefix, or the account may not list it.
            SourceUnreachable: The server did not answer.
        """
        files: dict[str, Listed] = {}
        others: list[str] = []
        with self._reached():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
            )
            for page in pages:
                others += [found["Prefix"].removeprefix(self._prefix) for found in page.get("CommonPrefixes", ())]
                for found in page.get("Contents", ()):
                    name = found["Key"].removeprefix(self._prefix)
                    if name.startswith("."):
                        others.append(name)
                    elif name:  # some tools write an empty object for the prefix itself
                        key = (found["ETag"], found["Size"], found["LastModified"].isoformat())
                        files[name] = Listed(
                            found["Size"], Stamp(key=key, written_at=found["LastModified"].timestamp())
                        )
                if len(files) + len(others) > MAX_FILES:
                    raise self.too_many()
        if not files and not others:
            raise SourceUnknown(
                f"There is nothing at {self._repo}.", "Check bucket and prefix, then run the command again.", self._repo
            )
        return Listing(files, tuple(name if name.isprintable() else ascii(name) for name in others))

    def blocks(self, path: str, first_byte: int, limit_bytes: int) -> Iterator[bytes]:
        """Read an object from a byte on, at most so many bytes; a broken connection is taken up where it broke.

        Raises:
            SourceChanged: It is gone, or was written meanwhile.
            SourceUnreachable: The server did not answer, or refused.
            SourceStalled: It began to answer, and then sent nothing several times in a row.
        """
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        position, end, fruitless, etag = first_byte, first_byte + limit_bytes, 0, None
        while position < end:
            began = position
            try:
                with self._reached(path):
                    answer = self._get(path, position, end, etag)
                    if answer is None:
                        return
                    etag = answer["ETag"]
                    body = answer["Body"]
                    with body:
                        while position < end and (block := body.read(min(READ_BYTES, end - position))):
                            position += len(block)
                            yield block
                    return
            except SourceUnreachable as error:
                if not isinstance(error.__cause__, IncompleteReadError | ReadTimeoutError | ResponseStreamingError):
                    raise
                fruitless = 0 if position > began else fruitless + 1
                if fruitless >= ATTEMPTS:
                    raise SourceStalled(
                        f"{path} of {self._repo} began to come and then stopped, {ATTEMPTS} times.",
                        "Run the command again later, or through another network; copied bytes are kept.",
                        where=self._repo,
                    ) from None

    def _hash(self, path: str, listed: Listed, arrived: Callable[[int], None]) -> str:
        return self._stated_sha256(path) or super()._hash(path, listed, arrived)

    def _stated_sha256(self, path: str) -> str | None:
        """The SHA-256 of the whole object as the server states it; of an upload in parts it is another number."""
        with self._reached(path):
            about = self._client.head_object(Bucket=self._bucket, Key=self._prefix + path, ChecksumMode="ENABLED")
        text = about.get("ChecksumSHA256") or ""
        if about.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
            return None
        try:
            digest = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return None
        return digest.hex() if len(digest) == 32 else None

    def _get(self, path: str, position: int, end: int, etag: str | None) -> Any:
        """Ask for a part of an object; None if it ends before."""
        from botocore.exceptions import ClientError

        condition = {"IfMatch": etag} if etag else {}
        try:
            return self._client.get_object(
                Bucket=self._bucket, Key=self._prefix + path, Range=f"bytes={position}-{end - 1}", **condition
            )
        except ClientError as error:
            if _status(error) == 416:
                return None
            if _status(error) in (404, 412):
                raise self.changed(path, "it is gone, or was written meanwhile") from None
            raise

    @cached_property
    def _client(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise InstallationBroken(
                "boto3, which reads s3:// sources, is not installed.", "Run `pip install 'weighbridge[s3]'`.", "boto3"
            ) from None
        config = Config(
            connect_timeout=TIMEOUT_SECONDS,
            read_timeout=TIMEOUT_SECONDS,
            retries={"max_attempts": ATTEMPTS, "mode": "standard"},
        )
        with self._reached():
            return boto3.client("s3", endpoint_url=self._endpoint, config=config)

    @contextmanager
    def _reached(self, path: str = "") -> Iterator[None]:
        """Turn failures of boto3 into named errors."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        place = f"{path} of {self._repo}" if path else self._repo
        try:
            yield
        except NoCredentialsError:
            raise SourceUnknown(
                f"There are no credentials for {place}.",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, then run `weighbridge up`.",
                where=self._repo,
            ) from None
        except ClientError as error:
            status, code = _status(error), str(error.response.get("Error", {}).get("Code", ""))[:60]
            if status in (301, 400, 401, 403, 404):
                raise SourceUnknown(
                    f"There is no {place}, or you may not read it ({status} {code}).",
                    "Check the address, the region, and what the AWS_* credentials may read.",
                    where=self._repo,
                ) from None
            raise self._unreachable(place, f"{status} {code}") from error
        except (BotoCoreError, OSError, ValueError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self._unreachable(place, why) from error

    def _unreachable(self, place: str, why: str) -> SourceUnreachable:
        return SourceUnreachable(
            f"The server of {place} did not answer, or refused ({why[:200]}).",
            "Check the network and AWS_ENDPOINT_URL or WEIGHBRIDGE_SOURCE_S3_ENDPOINT, then run the command again.",
            where=self._repo,
        )


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
