"""Signatures, rings and signed verdicts from hostile hands are refused with a name, and with no other error."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.models import verdicts
from registry.signing import KeyPair, manifests, read_statement, ring, sign_statement
from tests.support.mutation import blobs, examples, json_files
from weighbridge.errors import ArtifactDamaged, ArtifactUnsigned, SignatureRefused, SigningKeyUnusable, VerdictUnsigned

KIND, DIGEST = "urn:weighbridge:test:v1", "a" * 64
PREDICATE = {"passes": False}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    keys = KeyPair(tmp_path_factory.mktemp("fuzz") / "keys")
    keys.prepare()
    return keys


@pytest.fixture(scope="module")
def envelope(keys: KeyPair) -> Any:
    # Signed once: an ECDSA signature is another each time, and hypothesis wants to repeat an example.
    return json.loads(sign_statement(keys, predicate_type=KIND, subject={"x": DIGEST}, predicate=PREDICATE))


@pytest.fixture(scope="module")
def manifest(keys: KeyPair) -> Path:
    path = keys.folder.parent / "manifest.json"
    path.write_text('{"files": []}')
    manifests.sign(path, keys)
    return path


@examples()
@given(data=st.data())
def test_a_mutated_statement_says_what_was_signed_or_is_refused(
    keys: KeyPair, envelope: Any, data: st.DataObject
) -> None:
    mutated = data.draw(json_files(envelope))
    with suppress(SignatureRefused):
        assert read_statement(keys, mutated, predicate_type=KIND, subject_sha256=DIGEST) == PREDICATE


@examples()
@given(data=st.data())
def test_a_mutated_signature_of_a_manifest_is_refused_or_still_this_manifests(
    keys: KeyPair, manifest: Path, data: st.DataObject
) -> None:
    signature = manifests.signature_path(manifest).read_bytes()
    mutated = data.draw(json_files(json.loads(signature)))
    manifests_bytes = data.draw(st.one_of(st.just(manifest.read_bytes()), blobs(manifest.read_bytes())))
    with suppress(ArtifactUnsigned, ArtifactDamaged):
        manifests.verify(manifests_bytes, mutated, manifest, "it", keys)
        assert manifests_bytes == manifest.read_bytes()


@examples()
@given(data=st.data())
def test_a_mutated_ring_is_read_or_named(keys: KeyPair, data: st.DataObject) -> None:
    content: Any = json.loads((keys.folder / ring.RING).read_text())
    with suppress(SigningKeyUnusable):
        found = ring.parse_ring(data.draw(json_files(content)), Path("keyring.json"))
        assert [key.public_key for key in found.keys] == [content["keys"][0]["public_key"]]


@examples()
@given(data=st.data())
def test_a_mutated_tag_of_a_signed_verdict_is_unsigned(keys: KeyPair, envelope: Any, data: st.DataObject) -> None:
    mutated = data.draw(json_files(envelope)).decode(errors="replace")
    with pytest.raises(VerdictUnsigned):
        verdicts.read(keys, "toy", DIGEST, mutated)
