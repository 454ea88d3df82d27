"""Changing the key: the next one signs from now on, and what the old one signed goes on counting, or does not.

The ring is written once, whole: before that the old key is in use, and after it the next one, wherever a kill falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from registry.signing import pem, ring
from registry.signing.keys import NEXT, KeyPair
from registry.signing.manifests import signed_in
from registry.signing.ring import Ring, RingKey, TrustedKey
from weighbridge.errors import OptionInvalid, SigningKeyChanged, SigningKeyUnusable
from weighbridge.files import write_whole

LIST = "`weighbridge keys list` shows the keys."


@dataclass(frozen=True)
class Rotation:
    """What a change of keys does, or would do."""

    old: RingKey | None
    """The key that no longer signs; None if none was known."""
    new: RingKey | None
    """The key that signs from now on; None if that has not changed, or the pair would be made only now (dry run)."""
    kept: int
    """Signatures of the old key that go on counting."""
    dropped: int
    """Signatures of the old key that no longer count."""


def rotate(
    keys: KeyPair,
    *,
    expected: str = "",
    revoke: bool = False,
    since: datetime | None = None,
    reason: str = "",
    dry_run: bool = False,
) -> Rotation:
    """Replace the key of today by a new pair, or by the key that the settings name now.

    Args:
        keys: The installation's keys.
        expected: Id of the key that is to be replaced; another process may have replaced it meanwhile.
        revoke: Whether others may have the old key: what it signed no longer counts.
        since: With `revoke`: what it signed before this time goes on counting, by this machine's own notes.
        reason: Kept with the old key.
        dry_run: Change nothing.

    Raises:
        SigningKeyChanged: The key was replaced meanwhile.
        SigningKeyUnusable: The next key cannot be used; nothing has changed.
    """
    with keys.lock():
        before = keys.known_ring() or keys.ring_of_old()
        old = before.current if before else None
        if old is not None and expected and old.id != expected:
            raise SigningKeyChanged(
                f"The key {expected[:12]} was replaced meanwhile, by {old.id[:12]}.",
                f"Nothing was changed. {LIST}",
                where=str(keys.folder),
            )
        private_key, public_key = _next_key(keys, before)
        new = RingKey.begun_now(public_key)
        closed, dropped = _closed(keys, old, revoke, since, reason) if old else (None, 0)
        after = Ring(keys=(*(before.keys[:-1] if before else ()), *([closed] if closed else []), new))
        if not dry_run:
            if private_key:
                write_whole(keys.folder / NEXT, private_key)
            after.write(keys.folder)
            keys.known_ring()
            keys.write_public(after)
    return Rotation(closed, None if dry_run and private_key else new, len(closed.signed) if closed else 0, dropped)


def revoke(
    keys: KeyPair, key_id: str, *, since: datetime | None = None, reason: str = "", dry_run: bool = False
) -> Rotation:
    """Stop believing a key that was replaced earlier.

    Args:
        keys: The installation's keys.
        key_id: First digits of its id.
        since: What it signed before this time goes on counting.
        reason: Kept with the key.
        dry_run: Change nothing.

    Raises:
        OptionInvalid: No key, or more than one, has these digits; or it is the key of today.
    """
    with keys.lock():
        before = keys.known_ring()
        found = [key for key in (before.keys if before else ()) if key_id and key.id.startswith(key_id.lower())]
        if before is None or len(found) != 1:
            raise OptionInvalid(f"{key_id!r} fits {len(found) or 'no'} keys of this installation.", LIST)
        if found[0].until is None:
            raise OptionInvalid(
                f"{found[0].id[:12]} is the key of today.",
                "`weighbridge keys rotate --revoke` replaces and revokes it.",
            )
        old = found[0]
        # What was dropped before stays dropped.
        kept = sorted({*old.signed} & {*ring.noted(keys.folder, old.id, since)}) if since else []
        closed = old.model_copy(
            update={"revoked": True, "reason": reason or old.reason, "signed": tuple(kept)},
        )
        if not dry_run:
            Ring(keys=tuple(closed if key.id == old.id else key for key in before.keys)).write(keys.folder)
    return Rotation(closed, None, len(kept), len(old.signed) - len(kept))


def _next_key(keys: KeyPair, before: Ring | None) -> tuple[bytes, str]:
    """Return the next private key, empty if the settings name one, and its public half."""
    if keys.private is None:
        private_key = pem.new_private()
        public_key = pem.public_pem_of(pem.parse_private(private_key, NEXT))
        if keys.public is not None and keys.public.resolve() != (keys.folder / ring.RING).resolve():
            raise SigningKeyUnusable(
                "WEIGHBRIDGE_PUBLIC_KEY names the keys to verify by, and would not have the new one.",
                f"Unset it, or let it name {keys.folder / ring.RING}.",
                where="WEIGHBRIDGE_PUBLIC_KEY",
            )
        return private_key, public_key
    public_key = keys.configured_public()
    if before and pem.key_id(public_key) in {key.id for key in before.keys}:
        raise SigningKeyUnusable(
            f"{keys.private} is a key that this installation has signed with already.",
            "Let WEIGHBRIDGE_SIGNING_KEY name the next key, and run the command again.",
            where="WEIGHBRIDGE_SIGNING_KEY",
        )
    return b"", public_key


def _closed(keys: KeyPair, old: RingKey, revoke: bool, since: datetime | None, reason: str) -> tuple[RingKey, int]:
    """Return the old key with the list of what goes on counting, and how many signatures no longer count."""
    noted = {*ring.noted(keys.folder, old.id)}
    # Signatures from before there were notes. A stolen key may have made them, so a revoked key has none.
    in_store = {*signed_in(keys.store, TrustedKey(old.id, old.public_key))} if keys.store else set()
    earlier = {*ring.noted(keys.folder, old.id, since)} if since else set()
    kept = earlier if revoke else noted | in_store
    closed = old.model_copy(
        update={"until": ring.now(), "revoked": revoke, "reason": reason, "signed": tuple(sorted(kept))}
    )
    return closed, len((noted | in_store) - kept)
