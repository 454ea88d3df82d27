"""How an artifact was made: of which inputs, with which parameters, by which versions.

The manifest carries it as a SLSA provenance v1 predicate, with SLSA's own field names. Beside the manifest lies the
same predicate as a signed in-toto statement, `provenance.json`, for tools that read attestations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from weighbridge import __version__
from weighbridge.errors import ArtifactDamaged, ProvenanceBroken

if TYPE_CHECKING:
    from registry.store.artifact import Artifact, Manifest
    from registry.store.listing import Listing

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
STORED = re.compile(r"store://(?P<line>[^/]+)/(?P<digest>[0-9a-f]{64})")


class _Slsa(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True)


class Input(_Slsa):
    """Something that an artifact was made of."""

    uri: str
    """`store://line/digest`, `hf://org/model@commit`, or the name of a text."""
    digest: dict[str, str]
    """By algorithm: `sha256` or `gitCommit`."""


class BuildDefinition(_Slsa):
    """What was asked for."""

    build_type: str
    external_parameters: dict[str, object]
    resolved_dependencies: tuple[Input, ...]


class Builder(_Slsa):
    """Who made it. No name of a machine: the same build elsewhere is the same builder."""

    id: str
    version: dict[str, str]


class BuildMetadata(_Slsa):
    """When, and in which flow run."""

    invocation_id: str
    finished_on: str


class RunDetails(_Slsa):
    """How it ran."""

    builder: Builder
    metadata: BuildMetadata


class Provenance(_Slsa):
    """SLSA's predicate."""

    build_definition: BuildDefinition
    run_details: RunDetails


def provenance_of(
    build: str,
    *,
    parameters: Mapping[str, object],
    inputs: Sequence[Input],
    versions: Mapping[str, str],
    invocation: str = "",
) -> Provenance:
    """Describe a build that ends now.

    Args:
        build: `download` or `quantize`.
        parameters: What was asked for.
        inputs: What it was made of, each with the digest that was verified.
        versions: Of the libraries that decide about the result.
        invocation: Id of the flow run; empty outside of one.
    """
    return Provenance(
        build_definition=BuildDefinition(
            build_type=f"weighbridge:{build}/v1",
            external_parameters=dict(parameters),
            resolved_dependencies=tuple(inputs),
        ),
        run_details=RunDetails(
            builder=Builder(id="pkg:pypi/weighbridge", version={"weighbridge": __version__, **versions}),
            metadata=BuildMetadata(
                invocation_id=invocation, finished_on=datetime.now(UTC).isoformat(timespec="seconds")
            ),
        ),
    )


def artifact_input(artifact: Artifact) -> Input:
    """Name an artifact as an input. The caller read it through `Store.path`."""
    return Input(uri=artifact.uri, digest={"sha256": artifact.digest})


class Origin(BaseModel):
    """One stage of how an artifact came to be."""

    model_config = ConfigDict(frozen=True)

    uri: str
    build: str = ""
    """`download`, `quantize`, or empty if it is not recorded."""
    state: str
    """`in the store`, `damaged`, `not in the store` or `published`."""
    versions: dict[str, str] = {}
    finished_on: str = ""
    invocation: str = ""


def origins(store: Listing, manifest: Manifest) -> list[Origin]:
    """Follow an artifact to where it comes from, itself first, by the manifests on this disk."""
    found, left = list[Origin](), [manifest]
    while left:
        current = left.pop()
        found.append(_origin(current))
        inputs = current.provenance.build_definition.resolved_dependencies if current.provenance else ()
        for entry in inputs:
            match = STORED.fullmatch(entry.uri)
            source = _held(store, match["line"], match["digest"]) if match else None
            if isinstance(source, str):
                found.append(Origin(uri=entry.uri, state=source))
            elif source is None:
                found.append(Origin(uri=entry.uri, state="published" if entry.uri.startswith("hf://") else "text"))
            elif source.artifact.uri not in {origin.uri for origin in found}:
                left.append(source)
    if manifest.provenance is None:
        found.append(Origin(uri=f"hf://{manifest.artifact.repo}@{manifest.artifact.commit}", state="published"))
    return found


def _origin(manifest: Manifest) -> Origin:
    made = manifest.provenance
    if made is None:
        return Origin(uri=manifest.artifact.uri, state="in the store")
    return Origin(
        uri=manifest.artifact.uri,
        build=made.build_definition.build_type.removeprefix("weighbridge:").partition("/")[0],
        state="in the store",
        versions=made.run_details.builder.version,
        finished_on=made.run_details.metadata.finished_on,
        invocation=made.run_details.metadata.invocation_id,
    )


def require_traceable(store: Listing, manifest: Manifest) -> None:
    """Check an artifact's inputs against the artifacts on this disk.

    An input that `clean` removed is no fault. Another copy of the same commit in its place is one.

    Raises:
        ProvenanceBroken: An input is of another commit, or is not what the store has as that commit.
    """
    artifact = manifest.artifact
    inputs = manifest.provenance.build_definition.resolved_dependencies if manifest.provenance else ()
    for match in (match for entry in inputs if (match := STORED.fullmatch(entry.uri))):
        source = _held(store, match["line"], match["digest"])
        if source == "damaged":
            continue
        held = [source] if not isinstance(source, str) else _downloads(store, artifact)
        right = {(artifact.repo, artifact.commit, match["digest"])}
        if held and not right & {(one.artifact.repo, one.artifact.commit, one.artifact.digest) for one in held}:
            raise ProvenanceBroken(
                f"{artifact.uri} was made of {match[0]}, and that is not what the store has as "
                f"{artifact.repo}@{artifact.commit[:12]}: {held[0].artifact.uri}.",
                f"Find out which of the two is right; `weighbridge release {artifact.line} --fresh` makes both anew.",
                where=match[0],
            )


def _held(store: Listing, line: str, digest: str) -> Manifest | str:
    """Return the manifest of an artifact on this disk, or why there is none."""
    if not store.holds_locally(line, digest):
        return "not in the store"
    try:
        return store.manifest(line, digest)
    except ArtifactDamaged:
        return "damaged"


def _downloads(store: Listing, artifact: Artifact) -> list[Manifest]:
    """Return the downloads of an artifact's commit on this disk."""
    manifests = [_held(store, *name) for name in store.listed(artifact.line, local_only=True)]
    return [
        found
        for found in manifests
        if not isinstance(found, str)
        and (found.artifact.repo, found.artifact.commit) == (artifact.repo, artifact.commit)
        and found.facts.get("made_by") == "download"
    ]
