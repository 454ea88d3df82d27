"""A private key in a management service: the worker asks it to sign, and nobody can read the key.

The service is a stand-in behind securesystemslib's interface. (moto signs the digest that AWS's client sends as if it
were a message, so it cannot stand in for AWS.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, Signature, Signer, SSlibKey

from registry.signing import KeyPair, read_statement, sign_statement
from registry.signing.rotation import rotate
from registry.store import Store
from tests.registry.store_support import make_artifact
from weighbridge.errors import SigningKeyChanged, SigningKeyUnusable

KIND, DIGEST = "urn:weighbridge:test:v1", "a" * 64
MakeKey = Callable[[str], tuple[str, Path]]


class Service(Signer):
    """A key management service; `testkms:NAME` is the URI of a key."""

    SCHEME = "testkms"
    held: dict[str, CryptoSigner] = {}  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self._name = name

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: object = None) -> Service:
        return cls(priv_key_uri.partition(":")[2])

    @property
    def public_key(self) -> SSlibKey:
        return self.held[self._name].public_key

    def sign(self, payload: bytes) -> Signature:
        if self._name not in self.held:
            raise PermissionError(f"not authorized to perform kms:Sign on {self._name}")
        return self.held[self._name].sign(payload)


@pytest.fixture
def make_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeKey:
    """Make a key in the service; returns its URI and a file with its public half."""
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, Service.SCHEME, Service)
    monkeypatch.setattr(Service, "held", {})

    def make(name: str) -> tuple[str, Path]:
        Service.held[name] = signer = CryptoSigner.generate_ecdsa()
        public = tmp_path / f"{name}.pem"
        public.write_text(signer.public_key.keyval["public"])
        return f"{Service.SCHEME}:{name}", public

    return make


def test_a_key_in_a_service_signs_and_is_rotated(make_key: MakeKey, tmp_path: Path) -> None:
    uri, public = make_key("first")
    keys = KeyPair(tmp_path / "keys", private=uri, public=public, store=tmp_path / "store")
    artifact = make_artifact(Store(tmp_path / "store", keys=keys))
    Store(tmp_path / "store", keys=KeyPair(tmp_path / "elsewhere", public=public)).verify(artifact)
    assert not (keys.folder / "weighbridge.key").exists()

    next_uri, next_public = make_key("next")
    after = KeyPair(keys.folder, private=next_uri, public=next_public, store=keys.store)
    with pytest.raises(SigningKeyChanged, match="keys rotate"):
        sign_statement(after, predicate_type=KIND, subject={"x": DIGEST}, predicate={})
    assert rotate(after).kept == 1
    Store(tmp_path / "store", keys=after).verify(artifact)
    signed = sign_statement(after, predicate_type=KIND, subject={"x": DIGEST}, predicate={})
    read_statement(after, signed, predicate_type=KIND, subject_sha256=DIGEST)


def test_a_service_that_refuses_is_named(make_key: MakeKey, tmp_path: Path) -> None:
    uri, public = make_key("first")
    keys = KeyPair(tmp_path / "keys", private=f"{uri}0", public=public)
    with pytest.raises(SigningKeyUnusable, match="does not sign: not authorized"):
        sign_statement(keys, predicate_type=KIND, subject={"x": DIGEST}, predicate={})


def test_a_key_in_a_service_needs_its_public_half(make_key: MakeKey, tmp_path: Path) -> None:
    uri, _ = make_key("first")
    with pytest.raises(SigningKeyUnusable, match="public half is not named"):
        KeyPair(tmp_path / "keys", private=uri).prepare()
