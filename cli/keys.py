"""`key add|list|remove|limit|usage`: API keys of the gateway, with their expiry, limits and use."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import complete
from cli.columns import number, whole
from cli.output import JsonOption, LineArgument, note, say, say_plain, show_json, table
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.tables import Table
    from tasks.serve.gateway import KeyRecord, Limits
    from tasks.serve.installation import ServingInstallation

NameArgument = Annotated[str, typer.Argument(help="Name of the client; it appears in the access log.")]
RequestsOption = Annotated[int | None, typer.Option("--requests-per-minute", min=1, help="None by default.")]
TokensOption = Annotated[
    int | None, typer.Option("--tokens-per-minute", min=1, help="Prompts and answers together; none by default.")
]

key = typer.Typer(help="Keys of the gateway's clients.", no_args_is_help=True)


@key.command()
def add(
    name: NameArgument,
    days: Annotated[
        float | None, typer.Option(min=0.0001, help="Days until the key expires; never by default.")
    ] = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key and print it once: only its digest is kept.

    Its limits count over all lines together; without them the limits of each line apply.
    """
    installation, running = _installation()
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days) if days else None
    limits = _limits(requests_per_minute, tokens_per_minute)
    what = f"{name}, {_until(expires)}, {_in_words(limits)}"
    with _recorded(installation, "key added", what, ""):
        secret = installation.gateway.add_key(name, expires, limits, wait=running)
    if as_json:
        show_json({"name": name, "key": secret, "expires": expires.isoformat() if expires else None})
        return
    say_plain(secret)
    note("key", f"{name}, {_until(expires)}; keep it now, it cannot be shown again")
    _note_if_down(running)


@key.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """List the keys with their expiry and limits; never the key itself."""
    installation, _ = _installation()
    records = installation.gateway.keys().root
    if as_json:
        show_json([{"name": name, **_as_dict(record)} for name, record in records.items()])
        return
    say(keys_table(records))


def keys_table(records: dict[str, KeyRecord]) -> Table:
    """Lay out the keys."""
    rows = table("name", whole("added"), whole("until"), number("requests a minute"), number("tokens a minute"))
    for name, record in records.items():
        until = styled("expired", "red") if record.expired else _until(record.expires)
        limits = record.limits
        rows.add_row(
            name,
            f"{record.added:%Y-%m-%d}",
            until,
            _number(limits.requests_per_minute),
            _number(limits.tokens_per_minute),
        )
    return rows


@key.command()
def remove(name: NameArgument, as_json: JsonOption = False) -> None:
    """Remove a key; it is refused as soon as the command ends."""
    installation, running = _installation()
    with _recorded(installation, "key removed", name, ""):
        installation.gateway.remove_key(name, wait=running)
    if as_json:
        show_json({"removed": name})
        return
    say(f"The key of {name} is removed.")
    _note_if_down(running)


@key.command()
def limit(
    line: LineArgument,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set a line's limits for each key that has none of its own; without options, remove them."""
    from weighbridge.line import Line

    Line.load(line)
    installation, running = _installation()
    limits = _limits(requests_per_minute, tokens_per_minute)
    what = f"each key, {_in_words(limits)}"
    with _recorded(installation, "key limit", what, line):
        installation.gateway.set_limits(line, limits, wait=running)
    if as_json:
        show_json({"line": line, **limits.model_dump()})
        return
    say(f"{line}, each key, {_in_words(limits)}.")
    _note_if_down(running)


@key.command()
def usage(
    line: Annotated[str, typer.Option(help="Only this line.", autocompletion=complete.lines)] = "",
    name: Annotated[str, typer.Option(help="Only this key.")] = "",
    days: Annotated[int, typer.Option(min=1, max=3660, help="Today and so many days before it, less one.")] = 7,
    as_json: JsonOption = False,
) -> None:
    """Show requests and tokens of each key by line and day (UTC), as the gateway's access log has them."""
    from tasks.serve.gateway.client_usage import read_usage
    from tasks.serve.gateway.logs import access_log
    from weighbridge.settings import load_settings

    log = access_log(load_settings())
    since = (datetime.now(UTC) - timedelta(days=days - 1)).strftime("%Y-%m-%d")
    report = read_usage(log, line, name, since)
    if as_json:
        show_json(report.model_dump())
        return
    rows = table(
        whole("day"), "key", "line", number("requests"), number("refused"), number("prompt tokens"), number("answered")
    )
    for row in report.rows:
        counted = (row.requests, row.refused, row.prompt_tokens, row.completion_tokens)
        rows.add_row(row.day, row.client, row.line, *(f"{count:,}" for count in counted))
    if report.rows:
        say(rows)
    else:
        say("No request with a key is in the access log for these days.")
    uncounted = sum(row.uncounted for row in report.rows)
    if uncounted:
        say(f"{uncounted:,} answered requests have no count of tokens: the client left early, or the engine gave none.")
    if report.unreadable:
        say(f"{report.unreadable:,} lines of the log cannot be read, so requests are missing.")
    if report.since > since:
        begins = report.since[:16].replace("T", " ")
        say(f"The log begins at {begins} UTC; of what came before it nothing is known here.")


def _installation() -> tuple[ServingInstallation, bool]:
    """Return the installation, and whether its gateway runs: then a change must be taken before a command ends."""
    from tasks.serve.installation import ServingInstallation

    installation = ServingInstallation.load()
    return installation, installation.gateway.health()


@contextmanager
def _recorded(installation: ServingInstallation, action: str, what: str, line: str) -> Iterator[None]:
    """Record a change in the audit log, by the key's name, never the key, also if the gateway did not take it."""

    def state() -> object:
        return installation.gateway.keys(), installation.gateway.routes()

    before = state()
    with installation.audit_log.recording(action, line, None, what=what, took_effect=lambda: state() != before):
        yield


def _in_words(limits: Limits) -> str:
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


def _note_if_down(running: bool) -> None:
    if not running:
        note("gateway", "is down; the change takes effect at the next `weighbridge up`")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(key, name="key")
