"""`store`: list artifacts, verify and sign them, and remove those that nothing uses."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.columns import below, number, whole
from cli.output import JsonOption, note, say, show_json, table
from cli.uses import gather_uses
from weighbridge.terminal import styled
from weighbridge.units import GIB, duration

if TYPE_CHECKING:
    from cli.tables import Table
    from registry.store import Artifact, Cleaned, Store
    from registry.store.origins import Origin

SHORT_DIGEST = 12
NO_ARTIFACT = "The store holds no artifact here yet: `weighbridge release LINE` makes the first."
store = typer.Typer(help="Artifacts: list, verify, sign, and remove those that nothing uses.")
LineOption = Annotated[str | None, typer.Option(help="Only artifacts of this line.")]
DigestArguments = Annotated[list[str] | None, typer.Argument(help="Digests, or their first digits. [default: all]")]


@store.command("ls")
def list_(line: LineOption = None, as_json: JsonOption = False) -> None:
    """List artifacts: what they are, where they come from, and what uses them."""
    from tasks.serve.installation import ServingInstallation
    from weighbridge.errors import WeighbridgeError

    installation = ServingInstallation.load()
    artifact_store = installation.store
    artifacts, problems = _readable(artifact_store, line)
    try:
        uses = gather_uses(installation)
    except WeighbridgeError as error:
        uses = None
        note("uses", f"not known: {error.what}")
    rows = [
        _row(artifact_store, artifact, uses)
        for artifact in sorted(artifacts, key=lambda found: (found.line, -artifact_store.created_at(found)))
    ]
    if as_json:
        show_json({"artifacts": rows, "problems": [problem.as_dict() for problem in problems]})
        raise typer.Exit(problems[0].exit_status if problems else 0)
    if not rows and not problems:
        say(NO_ARTIFACT)
        return
    say(_artifacts_table(rows))
    if problems:
        raise problems[0]


@store.command()
def verify(digests: DigestArguments = None, as_json: JsonOption = False) -> None:
    """Check signatures and hash every file again. Exit status 10 if an artifact is damaged or unsigned.

    An artifact that is only in the remote store is fetched if its digest is named.
    """
    from tasks.serve.installation import ServingInstallation
    from tasks.source.progress import byte_bar
    from weighbridge.errors import WeighbridgeError

    installation = ServingInstallation.load()
    artifact_store = installation.store
    artifacts, problems = (
        _named(artifact_store, digests) if digests else _readable(artifact_store, None, local_only=True)
    )
    rows: list[dict[str, Any]] = [{"uri": problem.where, "right": False, **problem.as_dict()} for problem in problems]
    for artifact in artifacts:
        try:
            with byte_bar(f"{artifact.line} {artifact.scheme} {artifact.short}") as progress:
                artifact_store.verify(artifact, progress)
            rows.append({"uri": artifact.uri, "right": True})
        except WeighbridgeError as error:
            problems.append(error)
            rows.append({"uri": artifact.uri, "right": False, **error.as_dict()})
        if not as_json:
            say(
                f"{styled('right', 'green')}  {artifact.uri}"
                if rows[-1]["right"]
                else f"{styled(rows[-1]['error'], 'red')}  {artifact.uri}"
            )
    if as_json:
        show_json({"artifacts": rows})
        raise typer.Exit(problems[0].exit_status if problems else 0)
    if problems:
        raise problems[0]
    if not rows:
        say(NO_ARTIFACT)


@store.command()
def sign(digests: Annotated[list[str], typer.Argument(help="Digests, or their first digits.")]) -> None:
    """Sign artifacts from the time before signed manifests; their files are hashed first."""
    from tasks.serve.installation import ServingInstallation

    installation = ServingInstallation.load()
    artifact_store = installation.store
    for artifact in _named(artifact_store, digests)[0]:
        artifact_store.sign(artifact)
        say(f"{styled('signed', 'green')}  {artifact.uri}")


@store.command()
def push(digests: Annotated[list[str], typer.Argument(help="Digests, or their first digits.")]) -> None:
    """Upload artifacts of this disk over damaged ones in the remote store; they are hashed first."""
    from tasks.serve.installation import ServingInstallation
    from tasks.source.progress import byte_bar
    from weighbridge.errors import SettingsInvalid

    artifact_store = ServingInstallation.load().store
    if artifact_store.remote is None:
        raise SettingsInvalid("There is no remote store.", "Set WEIGHBRIDGE_STORE_URL.", "WEIGHBRIDGE_STORE_URL")
    for artifact in _named(artifact_store, digests)[0]:
        with byte_bar(f"{artifact.line} {artifact.scheme} {artifact.short}") as progress:
            artifact_store.push(artifact, progress)
        say(f"{styled('pushed', 'green')}  {artifact.uri}")


@store.command()
def show(
    digest: Annotated[str, typer.Argument(help="Digest, or its first digits.")],
    statement: Annotated[
        bool, typer.Option(help="Print the signed statement of how it was made, for other tools.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show where an artifact comes from: what it was made of, by what, down to the published commit."""
    from registry.store import origins
    from tasks.serve.installation import ServingInstallation

    artifact_store = ServingInstallation.load().store
    artifact = _named(artifact_store, [digest])[0][0]
    manifest = artifact_store.manifest(artifact.line, artifact.digest)
    if statement:
        print(artifact_store.statement(artifact))
        return
    chain = origins(artifact_store, manifest)
    provenance = manifest.provenance.model_dump(mode="json") if manifest.provenance else None
    if as_json:
        origin_rows = [origin.model_dump() for origin in chain]
        show_json({**artifact.model_dump(), "uri": artifact.uri, "provenance": provenance, "origins": origin_rows})
        return
    say(_origins_table(chain))
    if manifest.provenance is None:
        note("provenance", "made before it was recorded; repository and commit are from the manifest.")
    else:
        note("parameters", json.dumps(manifest.provenance.build_definition.external_parameters, sort_keys=True))
        note("flow run", manifest.provenance.run_details.metadata.invocation_id or "none")


@store.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; show what would be removed.")] = False,
    keep: Annotated[int, typer.Option(min=0, help="Also keep this many of each line's newest artifacts.")] = 0,
    min_age_hours: Annotated[
        float,
        typer.Option(min=0, help="Keep younger artifacts: a release that is being weighed is not registered yet."),
    ] = 24.0,
    as_json: JsonOption = False,
) -> None:
    """Remove artifacts that nothing uses, and temporary files of dead processes.

    Artifacts that production, previous, an open candidate or an engine uses are kept, with their sources. Without
    MLflow nothing is removed, because it alone knows the uses. The remote store is not touched.
    """
    from registry.store import clean
    from tasks.serve.installation import ServingInstallation

    installation = ServingInstallation.load()
    artifact_store = installation.store

    def used() -> set[str]:
        return set(gather_uses(installation))

    # Asked twice: an engine or a promotion may have begun to use an artifact since the first answer.
    age = min_age_hours * 3600
    cleaned = clean(artifact_store, used(), keep_now=used, newest=keep, min_age_seconds=age, dry_run=dry_run)
    if as_json:
        show_json({**cleaned.model_dump(), "freed_bytes": cleaned.freed_bytes})
        return
    _show_cleaned(cleaned)


def _artifacts_table(rows: list[dict[str, Any]]) -> Table:
    """Lay out what `_row` tells of each artifact."""
    table_ = table(
        "line", "digest", "scheme", number("size (GiB)"), below("source"), number("age"), "used as", whole("signed")
    )
    for row in rows:
        where = row["source"] if row["here"] else f"{row['source']} (remote)"
        used = "?" if row["uses"] is None else ", ".join(row["uses"]) or "–"
        age = duration(row["age_seconds"]) if row["here"] else "–"
        signed = "–" if row["signed"] is None else "yes" if row["signed"] else styled("no", "red")
        size = f"{row['size_bytes'] / GIB:.2f}"
        table_.add_row(row["line"], row["digest"][:12], row["scheme"], size, where, age, used, signed)
    return table_


def _origins_table(chain: list[Origin]) -> Table:
    """Lay out an artifact and what it was made of."""
    table_ = table("artifact or source", "made by", below("with"), whole("finished"), "state")
    for origin in chain:
        versions = ", ".join(f"{name} {version}" for name, version in sorted(origin.versions.items()))
        # --json has whole digests.
        uri = re.sub(rf"([0-9a-f]{{{SHORT_DIGEST}}})[0-9a-f]{{28,}}", r"\1", origin.uri)
        table_.add_row(uri, origin.build or "–", versions or "–", origin.finished_on or "–", origin.state)
    return table_


def _row(artifact_store: Store, artifact: Artifact, uses: dict[str, list[str]] | None) -> dict[str, Any]:
    here = artifact_store.holds_locally(artifact.line, artifact.digest)
    return {
        **artifact.model_dump(),
        "uri": artifact.uri,
        "source": f"{artifact.repo}@{artifact.commit[:12]}",
        "here": here,
        "age_seconds": round(time.time() - artifact_store.created_at(artifact)) if here else None,
        "uses": None if uses is None else uses.get(artifact.digest, []),
        "signed": artifact_store.signed(artifact) if here else None,
    }


def _readable(artifact_store: Store, line: str | None, local_only: bool = False) -> tuple[list[Artifact], list[Any]]:
    """Return every artifact with a readable manifest, and the errors of the others."""
    from weighbridge.errors import ArtifactDamaged

    found, problems = [], []
    for line_name, digest in artifact_store.listed(line, local_only=local_only):
        try:
            found.append(artifact_store.get(line_name, digest))
        except ArtifactDamaged as error:
            problems.append(error)
    return found, problems


def _named(artifact_store: Store, digests: list[str]) -> tuple[list[Artifact], list[Any]]:
    """Return the artifacts that digests or their first digits name, each once.

    Raises:
        ArtifactMissing: no digest begins with these digits.
        OptionInvalid: several digests do.
    """
    from weighbridge.errors import ArtifactMissing, OptionInvalid

    found: dict[tuple[str, str], None] = {}
    listed = artifact_store.listed()
    for text in digests:
        matching = [key for key in listed if text and key[1].startswith(text.lower())]
        if not matching:
            raise ArtifactMissing(
                f"The store holds nothing whose digest begins with {text!r}.",
                "`weighbridge store ls` lists what it holds.",
            )
        if len({digest for _, digest in matching}) > 1:
            raise OptionInvalid(f"{text!r} fits {len(matching)} artifacts.", "Give more of the digest's digits.")
        found |= dict.fromkeys(matching)
    return [artifact_store.get(*key) for key in found], []


def _show_cleaned(cleaned: Cleaned) -> None:
    if cleaned.removed:
        table_ = table("line", "what", "scheme", number("size (MiB)"), "why")
        for removed in cleaned.removed:
            what = removed.name[:12] if removed.scheme else removed.name
            table_.add_row(removed.line, what, removed.scheme or "–", f"{removed.size_bytes / 2**20:.1f}", removed.why)
        say(table_)
    verb = "would be freed" if cleaned.dry_run else "freed"
    say(f"{cleaned.freed_bytes / GIB:.2f} GiB {verb}; {cleaned.kept} artifacts are kept.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(store, name="store")
