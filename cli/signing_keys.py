"""`keys list|rotate|revoke`: the keys that sign artifacts and verdicts. Clients' keys are `weighbridge key`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.columns import number, whole
from cli.output import JsonOption, note, say, show_json, table
from weighbridge.errors import OptionInvalid
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from cli.tables import Table
    from registry.installation import Installation
    from registry.signing.ring import RingKey
    from registry.signing.rotation import Rotation

SHORT_ID = 12
ReasonOption = Annotated[str, typer.Option(help="Why; kept with the old key and in the audit log.")]
SinceOption = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
        help="With a revoked key: since when others may have it, UTC. What it signed earlier goes on counting.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]

keys = typer.Typer(
    help="Keys that sign artifacts and verdicts. (Keys of the gateway's clients: `weighbridge key`.)",
    no_args_is_help=True,
)


@keys.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """List the keys that this installation signs with and did sign with: ids, dates, what still counts."""
    from registry.signing import ring

    installation = _installation()
    pair = installation.keys
    rows = [_as_dict(key, len(ring.noted(pair.folder, key.id))) for key in pair.listed()]
    private, readable = pair.private_now(), pair.can_sign()
    if as_json:
        show_json({"keys": rows, "private_key": private, "can_sign": readable, "folder": str(pair.folder)})
        return
    if not rows:
        say("No key yet: the first pair is made by `weighbridge up`, or when the first artifact is made.")
        return
    say(keys_table(rows))
    note("private", f"{private}{'' if readable else ', which this user cannot read: this machine only verifies'}")


def keys_table(rows: list[dict[str, Any]]) -> Table:
    """Lay out the keys."""
    found = table("id", "state", whole("since"), whole("until"), number("signatures that count"))
    for row in rows:
        found.add_row(
            row["id"][:SHORT_ID],
            styled(row["state"], "red") if row["state"] == "revoked" else row["state"],
            row["since"][:10],
            (row["until"] or "–")[:10],
            "all" if row["state"] == "in use" else str(row["counting"]),
        )
    return found


@keys.command()
def rotate(
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Others may have the old key: what it signed no longer counts.")
    ] = False,
    since: SinceOption = None,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Sign with a new pair from now on, or with the key that WEIGHBRIDGE_SIGNING_KEY names by now.

    What the old key signed so far goes on counting, and nothing that it signs later. With --revoke nothing of it
    counts, or only what was signed before --since.
    """
    from registry.signing.rotation import rotate as change

    if since and not revoke:
        raise OptionInvalid("--since belongs to --revoke.", "Without --revoke, all that was signed so far counts.")
    installation = _installation()
    listed = installation.keys.listed()
    done = change(
        installation.keys,
        expected=listed[-1].id if listed else "",
        revoke=revoke,
        since=_utc(since),
        reason=reason,
        dry_run=dry_run,
    )
    _finish(installation, "signing key rotated", done, reason, dry_run, as_json)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="First digits of the id of a key that was replaced earlier.")],
    since: SinceOption = None,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stop believing a key that was replaced earlier. For the key of today: `weighbridge keys rotate --revoke`."""
    from registry.signing.rotation import revoke

    installation = _installation()
    done = revoke(installation.keys, key, since=_utc(since), reason=reason, dry_run=dry_run)
    _finish(installation, "signing key revoked", done, reason, dry_run, as_json)


def _finish(installation: Installation, action: str, done: Rotation, reason: str, dry_run: bool, as_json: bool) -> None:
    old = done.old.id[:SHORT_ID] if done.old else "none"
    new = f"{done.new.id[:SHORT_ID]} signs from now on" if done.new else "a new pair would sign from now on"
    revoked = done.old is not None and done.old.revoked
    what = f"{old} {'revoked' if revoked else 'replaced'}; {done.kept} signatures of it count, {done.dropped} do not"
    if action == "signing key rotated":
        what = f"{new}; {what}"
    if not dry_run:
        installation.audit_log.append(action, "", None, what=what, reason=reason)
    if as_json:
        show_json(
            {
                "old": done.old.id if done.old else None,
                "new": done.new.id if done.new else None,
                "revoked": revoked,
                "kept": done.kept,
                "dropped": done.dropped,
                "dry_run": dry_run,
            }
        )
        return
    say(f"{'Would be: ' if dry_run else ''}{what}.")
    if done.dropped:
        say(
            "Look at what they signed, then sign it again: `weighbridge store verify` names the artifacts, "
            "`weighbridge store sign DIGEST` signs one, `weighbridge release LINE` signs a line's verdicts."
        )
    if not dry_run and done.new:
        note("keys", f"give {installation.keys.folder / 'keyring.json'} to the machines that only verify")


def _as_dict(key: RingKey, signed: int) -> dict[str, Any]:
    state = "in use" if key.until is None else "revoked" if key.revoked else "replaced"
    return {
        "id": key.id,
        "state": state,
        "since": key.since.isoformat(),
        "until": key.until.isoformat() if key.until else None,
        "reason": key.reason,
        "signed": signed,
        "counting": signed if key.until is None else len(key.signed),
        "public_key": key.public_key,
    }


def _installation() -> Installation:
    from registry.installation import Installation

    return Installation.load()


def _utc(when: datetime | None) -> datetime | None:
    return when.replace(tzinfo=UTC) if when else None


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(keys, name="keys")
