"""Keys change: what was signed goes on counting, what a thief signs later does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.audit import AuditLog
from registry.signing import KeyPair, envelope, pem, read_statement, ring, sign_statement
from registry.signing.rotation import Rotation, revoke, rotate
from registry.store import Store
from tests.registry.store_support import make_artifact
from weighbridge.errors import (
    ArtifactUnsigned,
    OptionInvalid,
    SignatureRefused,
    SigningKeyChanged,
    SigningKeyMissing,
    SigningKeyUnusable,
)
from weighbridge.files import write_whole

KIND, DIGEST = "urn:weighbridge:test:v1", "a" * 64


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return KeyPair(tmp_path / "keys", store=tmp_path / "store")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def sign(keys: KeyPair, text: str = "") -> str:
    return sign_statement(keys, predicate_type=KIND, subject={"x": DIGEST}, predicate={"text": text})


def read(keys: KeyPair, signed: str) -> object:
    return read_statement(keys, signed, predicate_type=KIND, subject_sha256=DIGEST)


def stolen(keys: KeyPair, folder: Path) -> KeyPair:
    """What a thief has who copied the folder of the keys."""
    shutil.copytree(keys.folder, folder)
    return KeyPair(folder)


def states(keys: KeyPair) -> list[tuple[bool, bool]]:
    """Whether each key is in use, and whether it is revoked; oldest first."""
    return [(key.until is None, key.revoked) for key in keys.listed()]


# --- rotation ------------------------------------------------------------------------------


def test_what_was_signed_before_a_rotation_goes_on_counting(keys: KeyPair, store: Store) -> None:
    old, artifact = sign(keys, "old"), make_artifact(store)
    done = rotate(keys)
    assert (done.kept, done.dropped) == (2, 0)
    assert read(keys, old) == {"text": "old"}
    store.verify(artifact)
    new = sign(keys, "new")
    assert rotate(keys).kept == 1, "what the key before it signed is not this key's"
    assert read(keys, old) == {"text": "old"} and read(keys, new) == {"text": "new"}
    assert states(keys) == [(False, False), (False, False), (True, False)]


def test_what_a_replaced_key_signs_later_is_refused(keys: KeyPair, tmp_path: Path) -> None:
    sign(keys)
    thief = stolen(keys, tmp_path / "thief")
    rotate(keys)
    with pytest.raises(SignatureRefused, match=r"was replaced on .* and had not signed it"):
        read(keys, sign(thief, "backdated"))


def test_the_replaced_private_key_is_gone_from_the_disk(keys: KeyPair) -> None:
    sign(keys)
    before = (keys.folder / "weighbridge.key").read_bytes()
    rotate(keys)
    assert all(before != path.read_bytes() for path in keys.folder.iterdir() if path.is_file())
    assert (keys.folder / "weighbridge.key").stat().st_mode & 0o777 == 0o600


def test_artifacts_from_before_there_were_notes_count_after_a_rotation(keys: KeyPair, store: Store) -> None:
    artifact = make_artifact(store)
    for name in (ring.RING, ring.LEDGER):
        (keys.folder / name).unlink()
    store.verify(artifact)
    assert rotate(keys).kept == 1
    store.verify(artifact)


def test_nothing_of_a_revoked_key_counts(keys: KeyPair, store: Store) -> None:
    old, artifact = sign(keys), make_artifact(store)
    assert rotate(keys, revoke=True, reason="left on a laptop").dropped == 2
    assert keys.listed()[0].reason == "left on a laptop"
    with pytest.raises(SignatureRefused, match="was revoked on"):
        read(keys, old)
    with pytest.raises(ArtifactUnsigned, match=r"was revoked on .*store sign"):
        Store(store.folder).verify(artifact)
    store.sign(artifact)
    store.verify(artifact)


def test_what_a_revoked_key_signed_before_the_theft_counts(keys: KeyPair, tmp_path: Path) -> None:
    early = sign(keys, "early")
    lines = (keys.folder / ring.LEDGER).read_text().replace(f"{datetime.now(UTC):%Y}", "2020")
    (keys.folder / ring.LEDGER).write_text(lines)
    late = sign(keys, "late")
    done = rotate(keys, revoke=True, since=datetime.now(UTC) - timedelta(days=30))
    assert (done.kept, done.dropped) == (1, 1)
    assert read(keys, early) == {"text": "early"}
    with pytest.raises(SignatureRefused):
        read(keys, late)


def test_an_earlier_key_is_revoked_by_its_id(keys: KeyPair) -> None:
    old = sign(keys)
    rotate(keys)
    first, current = keys.listed()
    with pytest.raises(OptionInvalid, match="rotate --revoke"):
        revoke(keys, current.id)
    with pytest.raises(OptionInvalid, match="no keys"):
        revoke(keys, "zz")
    assert revoke(keys, first.id[:8], dry_run=True).dropped == 1
    read(keys, old)
    assert revoke(keys, first.id[:8]).dropped == 1
    with pytest.raises(SignatureRefused):
        read(keys, old)
    assert states(keys) == [(False, True), (True, False)]


def test_a_dry_run_changes_nothing(keys: KeyPair) -> None:
    sign(keys)
    before = {path.name: path.read_bytes() for path in keys.folder.iterdir()}
    assert rotate(keys, dry_run=True).kept == 1
    assert {path.name: path.read_bytes() for path in keys.folder.iterdir()} == before


@pytest.mark.parametrize("killed_at", ["weighbridge.key.next", "keyring.json", "weighbridge.pub"])
def test_a_rotation_that_is_killed_ends_before_or_after_it(
    keys: KeyPair, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    old = sign(keys)

    def dies(path: Path, *rest: object) -> None:
        write_whole(path, *rest)  # type: ignore[arg-type]
        if path.name == killed_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        for module in ("registry.signing.rotation", "registry.signing.ring", "registry.signing.keys"):
            patched.setattr(f"{module}.write_whole", dies)
        with pytest.raises(KeyboardInterrupt):
            rotate(keys)
    read(keys, old)
    read(keys, sign(keys, "after"))
    assert len(keys.listed()) == (1 if killed_at == "weighbridge.key.next" else 2)
    assert not (keys.folder / "weighbridge.key.next").exists()


def test_of_two_rotations_at_once_one_is_told(keys: KeyPair) -> None:
    sign(keys)
    current = keys.listed()[-1].id
    outcomes: list[Rotation | SigningKeyChanged] = []

    def run() -> None:
        try:
            outcomes.append(rotate(keys, expected=current))
        except SigningKeyChanged as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([outcome for outcome in outcomes if isinstance(outcome, Rotation)]) == 1
    assert states(keys) == [(False, False), (True, False)]


def test_statements_signed_while_keys_rotate_stay_valid(keys: KeyPair) -> None:
    """A release goes on in other processes."""
    sign(keys)
    code = f"""
import time
from pathlib import Path
from registry.signing import KeyPair, sign_statement
keys = KeyPair(Path({str(keys.folder)!r}))
for number in range(60):
    print(sign_statement(keys, predicate_type={KIND!r}, subject={{"x": {DIGEST!r}}}, predicate={{}}), flush=True)
    time.sleep(0.03)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        signed = [process.stdout.readline()]
        for _ in range(3):
            rotate(keys)
            signed.append(process.stdout.readline())
        signed += process.stdout.readlines()
    assert len(signed) == 60
    assert len({json.loads(text)["signatures"][0]["keyid"] for text in signed}) > 1
    for text in signed:
        read(keys, text)


# --- a missing key -------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["weighbridge.pub", "keyring.json", "signed.jsonl", "the store"])
def test_a_missing_key_is_not_replaced_silently(keys: KeyPair, store: Store, left: str) -> None:
    artifact = make_artifact(store)
    for path in keys.folder.iterdir():
        if path.name != left:
            path.unlink()
    if left != "the store":
        shutil.rmtree(store.folder)
    for attempt in (keys.prepare, lambda: sign(keys)):
        if (left, attempt) == ("keyring.json", keys.prepare):
            continue  # `up` serves on: everything can be verified.
        with pytest.raises(SigningKeyMissing, match=r"is gone.*keys rotate"):
            attempt()
    assert not (keys.folder / "weighbridge.key").exists()
    rotate(keys)
    read(keys, sign(keys))
    if left == "the store":
        with pytest.raises(ArtifactUnsigned):
            store.verify(artifact)


def test_a_restored_audit_log_shows_that_a_key_is_missing(tmp_path: Path) -> None:
    keys = KeyPair(tmp_path / "keys", audit_log=tmp_path / "audit" / "log.jsonl")
    AuditLog(tmp_path / "audit").append("mlflow.create_role", "", None, who="ada")
    keys.prepare()
    shutil.rmtree(keys.folder)
    AuditLog(tmp_path / "audit").append("approve", "toy", 1, who="ada")
    with pytest.raises(SigningKeyMissing, match=r"log\.jsonl"):
        keys.prepare()


def test_a_damaged_ring_is_named(keys: KeyPair) -> None:
    signed = sign(keys)
    content = json.loads((keys.folder / ring.RING).read_text())
    (key,) = content["keys"]
    other = KeyPair(keys.folder.with_name("other"))
    sign(other)
    damages: tuple[dict[str, object], ...] = (
        {},
        {"keys": []},
        {"keys": [{**key, "id": "0" * 64}]},
        {"keys": [{**key, "until": key["since"]}]},
        {"keys": [key, key]},
        {"keys": [{**key, "public_key": other.listed()[0].public_key}]},
        {"keys": [{**key, "since": "yesterday"}]},
    )
    for damaged in damages:
        (keys.folder / ring.RING).write_text(json.dumps(damaged))
        with pytest.raises(SigningKeyUnusable, match=r"keyring\.json is damaged"):
            read(keys, signed)


# --- a private key that others cannot read -------------------------------------------------


@pytest.mark.parametrize("own_file", [True, False])
def test_everything_but_signing_works_with_an_unreadable_private_key(
    keys: KeyPair, store: Store, own_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, signed = make_artifact(store), sign(keys)
    private = keys.folder / "weighbridge.key"
    if own_file:
        private = private.rename(keys.folder.parent / "own.pem")
        keys = KeyPair(keys.folder, private=str(private), store=store.folder)
    readable = pem.read

    def refusing(path: Path) -> bytes:
        if path == private:  # Tests may run as root, for whom modes mean nothing.
            raise pem.unusable(path, "Permission denied")
        return readable(path)

    monkeypatch.setattr(pem, "read", refusing)
    reader = Store(store.folder, keys=keys)
    reader.verify(artifact)
    read(keys, signed)
    keys.prepare()
    with pytest.raises(SigningKeyUnusable, match="Permission denied"):
        sign(keys)


def test_a_machine_with_a_copy_of_the_ring_verifies_what_earlier_keys_signed(keys: KeyPair, tmp_path: Path) -> None:
    old = sign(keys, "old")
    thief = stolen(keys, tmp_path / "thief")
    rotate(keys)
    new = sign(keys, "new")
    copy = Path(shutil.copy(keys.folder / ring.RING, tmp_path / "ring.json"))
    other = KeyPair(tmp_path / "other", public=copy)
    read(other, old)
    read(other, new)
    with pytest.raises(SignatureRefused, match="had not signed it"):
        read(other, sign(thief, "late"))
    pems = tmp_path / "both.pem"
    pems.write_text("".join(key.public_key for key in keys.listed()))
    read(KeyPair(tmp_path / "other", public=pems), old)


def test_the_next_key_may_be_a_file(keys: KeyPair, tmp_path: Path) -> None:
    old = sign(keys)
    own = tmp_path / "own.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", own], check=True)
    named = KeyPair(keys.folder, private=str(own), store=keys.store)
    with pytest.raises(SigningKeyChanged):
        sign(named)
    rotate(named)
    read(named, sign(named))
    read(named, old)
    with pytest.raises(SigningKeyUnusable, match="signed with already"):
        rotate(named)


def test_every_altered_byte_of_a_signature_is_refused(keys: KeyPair) -> None:
    content = json.loads(sign(keys))
    signature = content["signatures"][0]["sig"]
    for at in range(0, len(signature), 7):
        altered = signature[:at] + ("A" if signature[at] != "A" else "B") + signature[at + 1 :]
        with pytest.raises(envelope.EnvelopeRefused):
            envelope.unseal({**content, "signatures": [{**content["signatures"][0], "sig": altered}]}, keys)
