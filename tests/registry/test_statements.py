"""Signed statements: what this installation says about content, and nobody else can."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from registry.signing import KeyPair, read_statement, sign_statement
from weighbridge.errors import SignatureRefused

KIND = "urn:weighbridge:test:v1"
DIGEST, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return KeyPair(tmp_path / "keys")


@pytest.fixture
def envelope(keys: KeyPair) -> str:
    return sign_statement(keys, predicate_type=KIND, subject={"int8": DIGEST}, predicate={"passes": False})


def read(keys: KeyPair, envelope: str, kind: str = KIND, digest: str = DIGEST) -> dict[str, Any]:
    return read_statement(keys, envelope, predicate_type=kind, subject_sha256=digest)


def altered(envelope: str, **fields: object) -> str:
    return json.dumps({**json.loads(envelope), **fields})


def test_what_was_signed_is_read(keys: KeyPair, envelope: str) -> None:
    assert read(keys, envelope) == {"passes": False}


def test_an_altered_predicate_is_refused(keys: KeyPair, envelope: str) -> None:
    payload = base64.b64decode(json.loads(envelope)["payload"])
    forged = base64.b64encode(payload.replace(b"false", b"true ")).decode()
    with pytest.raises(SignatureRefused, match="not signed by the key"):
        read(keys, altered(envelope, payload=forged))


def test_a_statement_about_other_content_is_refused(keys: KeyPair, envelope: str) -> None:
    with pytest.raises(SignatureRefused, match="something else than bbbbbbbbbbbb"):
        read(keys, envelope, digest=OTHER)


def test_a_statement_of_another_kind_is_refused(keys: KeyPair, envelope: str) -> None:
    with pytest.raises(SignatureRefused, match="another kind"):
        read(keys, envelope, kind="urn:weighbridge:other:v1")


def test_a_statement_by_another_installation_is_refused(envelope: str, tmp_path: Path) -> None:
    other = KeyPair(tmp_path / "other")
    with pytest.raises(SignatureRefused, match="not signed by the key"):
        read(other, envelope)
    other.prepare()
    with pytest.raises(SignatureRefused, match="not signed by the key"):
        read(other, envelope)


def test_verifying_makes_no_key(envelope: str, tmp_path: Path) -> None:
    other = KeyPair(tmp_path / "other")
    with pytest.raises(SignatureRefused):
        read(other, envelope)
    assert not other.folder.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"payload": 1}', '{"payload":"","payloadType":"","signatures":[]}', "\x00"]
)
def test_what_is_no_envelope_is_refused(keys: KeyPair, text: str) -> None:
    with pytest.raises(SignatureRefused, match="is no signature"):
        read(keys, text)


def test_another_payload_type_is_refused(keys: KeyPair, envelope: str) -> None:
    with pytest.raises(SignatureRefused, match="not signed by the key"):
        read(keys, altered(envelope, payloadType="text/plain"))
