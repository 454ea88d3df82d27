"""`store`: what artifacts there are, whether they are still what was made, and which of them may go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from cli.output import JsonOption, note, say, show_json, table
from weighbridge.units import GIB

if TYPE_CHECKING:
    from registry.store import Artifact, Cleaned, Store

CLOSED = ("retired", "refused")
"""States of approved versions that nobody goes back to."""

store = typer.Typer(help="Artifacts: list, verify, sign, and free the disk of those that nobody needs.")
LineOption = Annotated[str | None, typer.Option(help="Only this line's.")]
DigestArguments = Annotated[list[str] | None, typer.Argument(help="Digests, or their first digits; all by default.")]


@store.command("ls")
def list_(line: LineOption = None, as_json: JsonOption = False) -> None:
    """List artifacts: what they are, where they come from, and what uses them."""
    from registry.store import Store
    from weighbridge.errors import WeighbridgeError

    kept = Store()
    artifacts, problems = _readable(kept, line)
    try:
        uses = gather_uses(kept)
    except WeighbridgeError as error:
        uses = None
        note("uses", f"not known: {error.what}")
    rows = [_row(kept, one, uses) for one in sorted(artifacts, key=lambda one: (one.line, -kept.created_at(one)))]
    if as_json:
        show_json({"artifacts": rows, "problems": [problem.as_dict() for problem in problems]})
        raise typer.Exit(problems[0].exit_status if problems else 0)
    shown = table("line", "digest", "scheme", "size", "source", "age", "used as", "signed")
    for row in rows:
        where = row["source"] if row["here"] else f"{row['source']} (remote)"
        used = "?" if row["uses"] is None else ", ".join(row["uses"]) or "–"
        age = _age(row["age_seconds"]) if row["here"] else "–"
        signed = "–" if row["signed"] is None else "yes" if row["signed"] else "[red]no[/]"
        size = f"{row['size_bytes'] / GIB:.2f} GiB"
        shown.add_row(row["line"], row["digest"][:12], row["scheme"], size, escape(where), age, escape(used), signed)
    say(shown)
    if problems:
        raise problems[0]


@store.command()
def verify(digests: DigestArguments = None, as_json: JsonOption = False) -> None:
    """Check signatures and hash every file again. Exit status 10 when an artifact is damaged or unsigned.

    An artifact that is only in the remote store is fetched when its digest is named.
    """
    from registry.store import Store
    from tasks.source.progress import byte_bar
    from weighbridge.errors import WeighbridgeError

    kept = Store()
    artifacts, problems = _named(kept, digests) if digests else _readable(kept, None, local_only=True)
    rows: list[dict[str, Any]] = [{"uri": problem.where, "right": False, **problem.as_dict()} for problem in problems]
    for artifact in artifacts:
        try:
            with byte_bar(f"{artifact.line} {artifact.scheme} {artifact.short}") as progress:
                kept.verify(artifact, progress)
            rows.append({"uri": artifact.uri, "right": True})
        except WeighbridgeError as error:
            problems.append(error)
            rows.append({"uri": artifact.uri, "right": False, **error.as_dict()})
        if not as_json:
            say(
                f"[green]right[/]  {artifact.uri}"
                if rows[-1]["right"]
                else f"[red]{rows[-1]['error']}[/]  {artifact.uri}"
            )
    if as_json:
        show_json({"artifacts": rows})
        raise typer.Exit(problems[0].exit_status if problems else 0)
    if problems:
        raise problems[0]


@store.command()
def sign(digests: Annotated[list[str], typer.Argument(help="Digests, or their first digits.")]) -> None:
    """Sign artifacts that were made before manifests were signed; their files are hashed first."""
    from registry.store import Store

    kept = Store()
    for artifact in _named(kept, digests)[0]:
        kept.sign(artifact)
        say(f"[green]signed[/]  {artifact.uri}")


@store.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would go.")] = False,
    keep: Annotated[int, typer.Option(min=0, help="Keep so many of each line's newest artifacts besides.")] = 0,
    min_age_hours: Annotated[
        float, typer.Option(min=0, help="Keep what is younger: a release that is being weighed is not registered yet.")
    ] = 24.0,
    as_json: JsonOption = False,
) -> None:
    """Free the disk of artifacts that nothing uses, and of what dead processes left.

    What production, previous, an open candidate or an engine uses stays, and so do the sources of these. Without
    MLflow nothing is removed, for it alone knows. The remote store is left alone.
    """
    from registry.store import Store, clean

    kept = Store()
    cleaned = clean(kept, set(gather_uses(kept)), newest=keep, min_age_seconds=min_age_hours * 3600, dry_run=dry_run)
    if as_json:
        show_json({**cleaned.model_dump(), "freed_bytes": cleaned.freed_bytes})
        return
    _show_cleaned(cleaned)


def gather_uses(kept: Store) -> dict[str, list[str]]:
    """Digest → what it is used as: by MLflow's aliases and open candidates, and by the engines of this machine.

    Raises:
        StackDown, RegistryFailed: MLflow cannot be asked.
    """
    from registry.models.registry import Registry
    from tasks.serve.fleet.protocol import fleet_of
    from weighbridge.line import line_names
    from weighbridge.settings import load_settings

    uses: dict[str, list[str]] = {}
    engines = fleet_of(load_settings()).engines()
    for engine in engines:
        uses.setdefault(engine.artifact.digest, []).append("engine")
    registry = Registry()
    _require_answer(registry.tracking_uri)
    lines = {*line_names(), *(one for one, _ in kept.listed()), *(engine.line for engine in engines)}
    for line in sorted(lines):
        # Oldest first, so that the last word on a digest that was approved twice is the newest version's.
        approved = {version.digest: version for version in registry.versions(line)}
        for alias, version in (("production", registry.production(line)), ("previous", registry.previous(line))):
            if version:
                uses.setdefault(version.digest, []).append(alias)
        for version in registry.candidates(line):
            after = approved.get(version.digest)
            if after is None or after.state not in CLOSED:
                uses.setdefault(version.digest, []).append(f"candidate {version.version}")
        for version in approved.values():
            if version.digest not in uses and version.state not in CLOSED:
                uses.setdefault(version.digest, []).append(f"version {version.version}")
    return uses


def _require_answer(address: str) -> None:
    """Notice an MLflow that does not run before its client is imported, which takes seconds."""
    import socket
    from urllib.parse import urlsplit

    from weighbridge.errors import StackDown

    server = urlsplit(address)
    if server.scheme not in ("http", "https"):
        return
    try:
        socket.create_connection((server.hostname or "", server.port or 80), timeout=5).close()
    except OSError:
        raise StackDown(
            "The MLflow server does not answer, and it alone knows what is in use.",
            "Start the stack with `weighbridge up`, then run the same command again.",
            where=address,
        ) from None


def _row(kept: Store, artifact: Artifact, uses: dict[str, list[str]] | None) -> dict[str, Any]:
    here = kept.holds_locally(artifact.line, artifact.digest)
    return {
        **artifact.model_dump(),
        "uri": artifact.uri,
        "source": f"{artifact.repo}@{artifact.commit[:12]}",
        "here": here,
        "age_seconds": round(time.time() - kept.created_at(artifact)) if here else None,
        "uses": None if uses is None else uses.get(artifact.digest, []),
        "signed": kept.signed(artifact) if here else None,
    }


def _readable(kept: Store, line: str | None, local_only: bool = False) -> tuple[list[Artifact], list[Any]]:
    """Every artifact whose manifest can be read, and the errors of the others."""
    from weighbridge.errors import ArtifactDamaged

    found, problems = [], []
    for one, digest in kept.listed(line, local_only=local_only):
        try:
            found.append(kept.get(one, digest))
        except ArtifactDamaged as error:
            problems.append(error)
    return found, problems


def _named(kept: Store, digests: list[str]) -> tuple[list[Artifact], list[Any]]:
    """The artifacts that digests or their beginnings name, each once.

    Raises:
        ArtifactMissing: nothing is called so.
        OptionInvalid: several digests begin so.
    """
    from weighbridge.errors import ArtifactMissing, OptionInvalid

    found: dict[tuple[str, str], None] = {}
    listed = kept.listed()
    for text in digests:
        matching = [one for one in listed if text and one[1].startswith(text.lower())]
        if not matching:
            raise ArtifactMissing(
                f"The store holds nothing whose digest begins with {text!r}.",
                "`weighbridge store ls` lists what it holds.",
            )
        if len({digest for _, digest in matching}) > 1:
            raise OptionInvalid(f"{text!r} fits {len(matching)} artifacts.", "Give more of the digest's digits.")
        found |= dict.fromkeys(matching)
    return [kept.get(*one) for one in found], []


def _show_cleaned(cleaned: Cleaned) -> None:
    if cleaned.removed:
        shown = table("line", "what", "scheme", "size", "why")
        for one in cleaned.removed:
            what = one.name[:12] if one.scheme else one.name
            shown.add_row(one.line, escape(what), one.scheme or "–", f"{one.size_bytes / 2**20:.1f} MiB", one.why)
        say(shown)
    verb = "would be freed" if cleaned.dry_run else "freed"
    say(f"{cleaned.freed_bytes / GIB:.2f} GiB {verb}; {cleaned.kept} artifacts stay.")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def add_to(app: typer.Typer) -> None:
    """Make the commands known."""
    app.add_typer(store, name="store")
