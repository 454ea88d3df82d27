"""Where an artifact comes from: recorded in its manifest, signed, and checked against what the store has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from registry.signing import KeyPair, read_statement
from registry.store import Artifact, Input, Store, clean, origins, provenance_of
from weighbridge.errors import ArtifactDamaged, ProvenanceBroken

COMMIT, OTHER = "c" * 40, "d" * 40
SLSA = "https://slsa.dev/provenance/v1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def downloaded(store: Store, content: str = "weights", commit: str = COMMIT) -> Artifact:
    with store.fresh_staging("line", "download") as folder:
        (folder / "config.json").write_text(content)
        source = Input(uri=f"hf://org/m@{commit}", digest={"gitCommit": commit})
        made = provenance_of("download", parameters={}, inputs=[source], versions={}, invocation="")
        facts: dict[str, object] = {"made_by": "download"}
        return store.adopt(
            folder, line="line", scheme="bf16", repo="org/m", commit=commit, facts=facts, provenance=made
        )


def quantized(store: Store, weights: Artifact, commit: str = COMMIT) -> Artifact:
    with store.fresh_staging("line", "quantize") as folder:
        (folder / "config.json").write_text("fewer bits")
        made = provenance_of(
            "quantize",
            parameters={"scheme": "int8", "method": "rtn"},
            inputs=[weights.as_input],
            versions={"torch": "2.13.0"},
            invocation="run-1",
        )
        return store.adopt(folder, line="line", scheme="int8", repo="org/m", commit=commit, provenance=made)


def test_a_manifest_names_the_digests_of_its_inputs_its_builder_and_its_parameters(store: Store) -> None:
    weights = downloaded(store)
    artifact = quantized(store, weights)
    content = json.loads((store.unverified_folder(artifact) / "manifest.json").read_text())
    definition, run = content["provenance"]["buildDefinition"], content["provenance"]["runDetails"]
    assert definition["resolvedDependencies"] == [{"uri": weights.uri, "digest": {"sha256": weights.digest}}]
    assert definition["externalParameters"] == {"scheme": "int8", "method": "rtn"}
    assert run["builder"]["version"].keys() == {"weighbridge", "torch"}
    assert run["metadata"]["invocationId"] == "run-1"
    store.verify(artifact)


def test_the_statement_beside_it_is_signed_and_about_the_artifact(store: Store, tmp_path: Path) -> None:
    artifact = quantized(store, downloaded(store))
    keys = KeyPair(tmp_path / "keys", store=store.folder)
    said = read_statement(keys, store.statement(artifact), predicate_type=SLSA, subject_sha256=artifact.digest)
    made = store.manifest("line", artifact.digest).provenance
    assert made and said == made.model_dump(mode="json")


def test_an_artifact_is_followed_to_the_published_commit(store: Store) -> None:
    weights = downloaded(store)
    chain = origins(store, store.manifest("line", quantized(store, weights).digest))
    assert [(origin.build, origin.state) for origin in chain] == [
        ("quantize", "in the store"),
        ("download", "in the store"),
        ("", "published"),
    ]
    assert (chain[1].uri, chain[2].uri) == (weights.uri, f"hf://org/m@{COMMIT}")


def test_a_candidate_of_another_source_than_the_stores_is_refused(store: Store) -> None:
    altered = downloaded(store, "altered weights")
    artifact = quantized(store, altered)
    shutil.rmtree(store.unverified_folder(altered))
    right = downloaded(store)
    with pytest.raises(ProvenanceBroken, match=rf"{altered.digest}.*{right.digest}"):
        store.verify(artifact)


def test_a_candidate_whose_input_is_of_another_commit_is_refused(store: Store) -> None:
    artifact = quantized(store, downloaded(store, commit=OTHER))
    with pytest.raises(ProvenanceBroken, match="is not what the store has"):
        store.verify(artifact)


def test_a_source_that_was_cleaned_away_is_said_and_is_no_fault(store: Store) -> None:
    weights = downloaded(store)
    artifact = quantized(store, weights)
    shutil.rmtree(store.unverified_folder(weights))
    store.verify(artifact)
    states = {origin.uri: origin.state for origin in origins(store, store.manifest("line", artifact.digest))}
    assert states[weights.uri] == "not in the store"


def test_a_damaged_source_does_not_keep_its_candidate_from_serving(store: Store) -> None:
    weights = downloaded(store)
    artifact = quantized(store, weights)
    manifest = store.unverified_folder(weights) / "manifest.json"
    manifest.write_text("{}")
    store.verify(artifact)


def test_a_manifest_from_before_provenance_is_read(store: Store) -> None:
    with store.fresh_staging("line", "old") as folder:
        (folder / "config.json").write_text("{}")
        artifact = store.adopt(folder, line="line", scheme="bf16", repo="org/m", commit=COMMIT)
    manifest = store.unverified_folder(artifact) / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["provenance"]
    manifest.write_text(json.dumps(content))
    store.sign(artifact)
    store.verify(artifact)
    chain = origins(store, store.manifest("line", artifact.digest))
    assert [origin.uri for origin in chain] == [artifact.uri, f"hf://org/m@{COMMIT}"]


@pytest.mark.parametrize("harm", ["removed", "altered", "another's"])
def test_an_altered_statement_is_refused_and_mended_by_signing_anew(store: Store, harm: str) -> None:
    weights = downloaded(store)
    artifact = quantized(store, weights)
    path = store.unverified_folder(artifact) / "provenance.json"
    if harm == "removed":
        path.unlink()
    elif harm == "altered":
        path.write_text(path.read_text().replace('"payload": "', '"payload": "A'))
    else:
        path.write_text(store.statement(weights))
    with pytest.raises(ArtifactDamaged, match=r"provenance\.json"):
        store.path(artifact)
    store.sign(artifact)
    store.path(artifact)


def test_clean_keeps_the_named_source(store: Store) -> None:
    weights = downloaded(store)
    artifact = quantized(store, weights)
    idle = downloaded(store, "idle", commit=OTHER)
    assert [removal.name for removal in clean(store, {artifact.digest}).removed] == [idle.digest]
