"""How an artifact was made: of which inputs, with which parameters, by which versions.

The manifest carries it as a SLSA provenance v1 predicate, with SLSA's own field names. Beside the manifest lies the
same predicate as a signed in-toto statement, `provenance.json`, for tools that read attestations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from weighbridge import __version__

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"


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
