"""`key add|list|remove|limit`: who may ask the gateway, until when and how much."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import JsonOption, LineArgument, note, say, show_json, table
from weighbridge.errors import WeighbridgeError

if TYPE_CHECKING:
    from tasks.serve.gateway import Gateway, Limits

NameArgument = Annotated[str, typer.Argument(help="Whose key; stands in the access log.")]
RequestsOption = Annotated[int | None, typer.Option("--requests-per-minute", min=1, help="None by default.")]
TokensOption = Annotated[
    int | None, typer.Option("--tokens-per-minute", min=1, help="Prompts and answers together; none by default.")
]

key = typer.Typer(help="Keys of the gateway's clients.", no_args_is_help=True)


@key.command()
def add(
    name: NameArgument,
    days: Annotated[
        float | None, typer.Option(min=0.0001, help="Refuse it after so many days; never by default.")
    ] = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once: what is kept of it is a digest.

    Its limits count over all lines together; without them those of each line hold.
    """
    gateway, running = _gateway()
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days) if days else None
    limits = _limits(requests_per_minute, tokens_per_minute)
    made = gateway.add_key(name, expires, limits, wait=running)
    try:
        _note("key added", f"{name}, {_until(expires)}, {_asked(limits)}")
    except (WeighbridgeError, OSError):
        # Nobody has seen it, and nothing says that it was made.
        gateway.remove_key(name, wait=running)
        raise
    if as_json:
        show_json({"name": name, "key": made, "expires": expires.isoformat() if expires else None})
        return
    print(made)
    note("key", f"{name}, {_until(expires)}; keep it now, it cannot be shown again")
    _tell_when(running)


@key.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """Say who has a key, until when, and what it may ask; never the key."""
    gateway, _ = _gateway()
    records = gateway.keys().root
    if as_json:
        show_json([{"name": name, **_as_dict(record)} for name, record in records.items()])
        return
    shown = table("name", "added", "until", "requests a minute", "tokens a minute")
    for name, record in records.items():
        until = "[red]expired[/]" if record.expired else _until(record.expires)
        limits = record.limits
        shown.add_row(
            name,
            f"{record.added:%Y-%m-%d}",
            until,
            _number(limits.requests_per_minute),
            _number(limits.tokens_per_minute),
        )
    say(shown)


@key.command()
def remove(name: NameArgument, as_json: JsonOption = False) -> None:
    """Take a key away; it is refused from the command's end on."""
    gateway, running = _gateway()
    gateway.remove_key(name, wait=running)
    _note("key removed", name)
    if as_json:
        show_json({"removed": name})
        return
    say(f"{name} has no key any more.")
    _tell_when(running)


@key.command()
def limit(
    line: LineArgument,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Limit what each key without limits of its own may ask of a line; no option takes the limits away."""
    from weighbridge.line import Line

    Line.load(line)
    gateway, running = _gateway()
    limits = _limits(requests_per_minute, tokens_per_minute)
    gateway.set_limits(line, limits, wait=running)
    _note("key limit", f"each key, {_asked(limits)}", line)
    if as_json:
        show_json({"line": line, **limits.model_dump()})
        return
    say(f"{line}, each key, {_asked(limits)}.")
    _tell_when(running)


def _gateway() -> tuple[Gateway, bool]:
    """The gateway, and whether it runs and so must take a change before a command ends."""
    from tasks.serve.gateway import Gateway

    gateway = Gateway()
    return gateway, gateway.health()


def _note(action: str, what: str, line: str = "") -> None:
    """Write a change down in the audit log, by the key's name and never the key."""
    from registry.audit import AuditLog

    AuditLog().append(action, line, None, what=what)


def _asked(limits: Limits) -> str:
    requests, tokens = _number(limits.requests_per_minute), _number(limits.tokens_per_minute)
    return f"a minute: requests {requests}, tokens {tokens}"


def _limits(requests: int | None, tokens: int | None) -> Limits:
    from tasks.serve.gateway import Limits

    return Limits(requests_per_minute=requests, tokens_per_minute=tokens)


def _as_dict(record: Any) -> dict[str, Any]:
    return {"expired": record.expired, **record.model_dump(mode="json", exclude={"sha256"})}


def _until(expires: datetime | None) -> str:
    return f"until {expires:%Y-%m-%d %H:%M} UTC" if expires else "no end"


def _number(count: int | None) -> str:
    return f"{count:,}" if count else "–"


def _tell_when(running: bool) -> None:
    if not running:
        note("gateway", "is down; it goes by this from the next `weighbridge up` on")


def add_to(app: typer.Typer) -> None:
    """Make the commands known."""
    app.add_typer(key, name="key")
