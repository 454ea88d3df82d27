"""Signatures by model-signing, checked by the store and by model-signing's own command line."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from registry.signing import manifests
from registry.store import Artifact, Store
from tests.registry.store_support import make_artifact, rewrite
from weighbridge.errors import ArtifactDamaged, ArtifactUnsigned, SigningKeyChanged, SigningKeyUnusable
from weighbridge.settings import Settings


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def manifest_of(store: Store, artifact: Artifact) -> Path:
    return store.unverified_folder(artifact) / "manifest.json"


def store_with(tmp_path: Path, signing_key: Path | None = None, public_key: Path | None = None) -> Store:
    """Open the store of an installation with these keys in its settings."""
    return Store.of(
        Settings(home=tmp_path, signing_key=str(signing_key) if signing_key else None, public_key=public_key)
    )


def openssl_key(path: Path, curve: str = "prime256v1") -> Path:
    subprocess.run(["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", path], check=True)
    return path


def test_a_key_pair_is_generated_once_and_private(store: Store, tmp_path: Path) -> None:
    make_artifact(store)
    private = tmp_path / "keys/weighbridge.key"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    make_artifact(store, {"other": ""})
    assert private.read_bytes() == before


def test_a_new_artifact_is_signed_and_verified(store: Store) -> None:
    artifact = make_artifact(store)
    assert store.signed(artifact)
    store.verify(artifact)


def test_the_librarys_command_line_verifies_the_signature(store: Store, tmp_path: Path) -> None:
    artifact = make_artifact(store)
    manifest = manifest_of(store, artifact)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(manifest)]
    command += ["--signature", str(manifest.with_suffix(".sig"))]
    command += ["--public_key", str(tmp_path / "keys/weighbridge.pub")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unsigned_artifact_is_refused_until_it_is_signed(store: Store) -> None:
    artifact = make_artifact(store)
    manifests.signature_path(manifest_of(store, artifact)).unlink()
    with pytest.raises(ArtifactUnsigned, match=r"is not signed.*store sign"):
        store.verify(artifact)
    store.sign(artifact)
    store.verify(artifact)


def test_a_damaged_artifact_is_not_signed(store: Store) -> None:
    artifact = make_artifact(store)
    manifests.signature_path(manifest_of(store, artifact)).unlink()
    rewrite(store.unverified_folder(artifact) / "model/config.json", "[]")
    with pytest.raises(ArtifactDamaged, match=r"config\.json"):
        store.sign(artifact)
    assert not store.signed(artifact)


def test_a_manifest_altered_after_signing_is_refused(store: Store) -> None:
    artifact = make_artifact(store)
    manifest = manifest_of(store, artifact)
    content = json.loads(manifest.read_text())
    content["facts"]["made_by"] = "somebody else"
    manifest.write_text(json.dumps(content))
    with pytest.raises(ArtifactDamaged, match=r"manifest\.json was altered"):
        store.verify(artifact)


def test_what_an_altered_manifest_says_is_told_to_nobody(store: Store) -> None:
    """The digest is of the files only: coverage and recipe, by which a reviewer decides, are in the signature alone."""
    artifact = make_artifact(store)
    manifest = manifest_of(store, artifact)
    assert store.facts(artifact) == {"made_by": "quantize"}
    manifest.write_text(manifest.read_text().replace("quantize", "download"))
    with pytest.raises(ArtifactDamaged, match="altered after it was signed"):
        store.facts(artifact)


def test_a_manifest_that_lists_other_files_is_refused(store: Store) -> None:
    artifact = make_artifact(store)
    manifest = manifest_of(store, artifact)
    content = json.loads(manifest.read_text())
    content["files"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(content))
    with pytest.raises(ArtifactDamaged, match="something else"):
        store.verify(artifact)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"dsseEnvelope": {"payload": 1}}', "[" * 100_000])
def test_an_invalid_signature_is_refused(store: Store, content: str) -> None:
    artifact = make_artifact(store)
    manifests.signature_path(manifest_of(store, artifact)).write_text(content)
    with pytest.raises(ArtifactUnsigned, match="no signature"):
        store.verify(artifact)


def test_the_signature_of_another_artifact_is_refused(store: Store) -> None:
    artifact, other = make_artifact(store), make_artifact(store, {"other": ""})
    signature = manifests.signature_path(manifest_of(store, other)).read_bytes()
    manifests.signature_path(manifest_of(store, artifact)).write_bytes(signature)
    with pytest.raises(ArtifactDamaged, match="altered"):
        store.verify(artifact)


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
def test_a_configured_key_signs(tmp_path: Path, curve: str) -> None:
    store = store_with(tmp_path, signing_key=openssl_key(tmp_path / "own.pem", curve))
    store.verify(make_artifact(store))


def test_a_signature_by_another_installation_is_refused(store: Store, tmp_path: Path) -> None:
    artifact = make_artifact(store)
    other = Store(tmp_path / "other" / "store")
    make_artifact(other, {"other": ""})
    shutil.copytree(store.folder / artifact.line, other.folder / artifact.line, dirs_exist_ok=True)
    with pytest.raises(ArtifactUnsigned, match="not signed by the key of this installation"):
        other.verify(artifact)


def test_another_key_does_not_sign_until_the_keys_are_rotated(store: Store, tmp_path: Path) -> None:
    artifact = make_artifact(store)
    store = store_with(tmp_path, signing_key=openssl_key(tmp_path / "own.pem"))
    store.verify(artifact)
    with pytest.raises(SigningKeyChanged, match=r"another key.*keys rotate"):
        make_artifact(store, {"other": ""})
    assert store.artifacts() == [artifact]


def test_a_public_key_alone_verifies_and_does_not_sign(store: Store, tmp_path: Path) -> None:
    artifact = make_artifact(store)
    store = store_with(tmp_path, public_key=tmp_path / "keys/weighbridge.pub")
    store.verify(artifact)
    with pytest.raises(SigningKeyUnusable, match="public key only"):
        make_artifact(store, {"other": ""})
    assert store.artifacts() == [artifact]


@pytest.mark.parametrize("content", [None, "no key", "curve"])
def test_an_invalid_key_is_rejected(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "own.pem"
    if content == "curve":
        openssl_key(path, "secp256k1")
    elif content:
        path.write_text(content)
    store = store_with(tmp_path, signing_key=path)
    with pytest.raises(SigningKeyUnusable, match=r"own\.pem"):
        make_artifact(store)
    assert store.artifacts() == []


def test_verifying_imports_no_signing_library(store: Store, tmp_path: Path) -> None:
    artifact = make_artifact(store)
    code = (
        "import sys; from pathlib import Path; from registry.store import Store; "
        f"store = Store(Path({str(store.folder)!r})); store.verify(store.get('line', {artifact.digest!r})); "
        "print(sorted({'model_signing', 'securesystemslib', 'sigstore', 'boto3', 'fsspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
