"""Follow an artifact to where it comes from, and check that its inputs are what the store has."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from registry.store.artifact import Artifact, Manifest
from registry.store.listing import Listing
from weighbridge.errors import ArtifactDamaged, ProvenanceBroken
from weighbridge.source_urls import looks_like_url, uri_of

STORED = re.compile(r"store://(?P<line>[^/]+)/(?P<digest>[0-9a-f]{64})")


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
                found.append(Origin(uri=entry.uri, state="published" if looks_like_url(entry.uri) else "text"))
            elif source.artifact.uri not in {origin.uri for origin in found}:
                left.append(source)
    if manifest.provenance is None:
        found.append(Origin(uri=uri_of(manifest.artifact.repo, manifest.artifact.commit), state="published"))
    return found


def _origin(manifest: Manifest) -> Origin:
    provenance = manifest.provenance
    if provenance is None:
        return Origin(uri=manifest.artifact.uri, state="in the store")
    return Origin(
        uri=manifest.artifact.uri,
        build=provenance.build_definition.build_type.removeprefix("weighbridge:").partition("/")[0],
        state="in the store",
        versions=provenance.run_details.builder.version,
        finished_on=provenance.run_details.metadata.finished_on,
        invocation=provenance.run_details.metadata.invocation_id,
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
        right = (artifact.repo, artifact.commit, match["digest"])
        if held and right not in [_identity(found.artifact) for found in held]:
            raise ProvenanceBroken(
                f"{artifact.uri} was made of {match[0]}, and that is not what the store has as "
                f"{artifact.repo}@{artifact.commit[:12]}: {held[0].artifact.uri}.",
                f"Find out which of the two is right; `weighbridge release {artifact.line} --fresh` makes both anew.",
                where=match[0],
            )


def _identity(artifact: Artifact) -> tuple[str, str, str]:
    return artifact.repo, artifact.commit, artifact.digest


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
