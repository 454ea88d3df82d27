"""The whole step with the real quantizer on tiny models, and every failure that must leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from registry.installation import Installation
from registry.store import Artifact, Store
from tasks.quantize import quantization_record, quantize
from tasks.quantize.tensors import read_tensors
from tests.quantize.quantize_support import stand_in
from weighbridge.errors import (
    ArtifactDamaged,
    ArtifactMissing,
    DiskFull,
    QuantizationFailed,
    QuantizationInterrupted,
    QuantizationUncovered,
)

if TYPE_CHECKING:
    from tests.quantize.conftest import Done

# transformers takes ten seconds of processor to import, minutes on a machine that is busy with other tests.
pytestmark = pytest.mark.timeout(400)


def test_int8_covers_every_layer_and_records_its_recipe(int8: Done) -> None:
    record = quantization_record(int8.artifact, int8.store)
    assert record is not None
    assert record.coverage.found == record.coverage.planned == 14
    assert record.coverage.share_of_linear_bytes == 1
    assert set(record.versions) == {"compressed-tensors", "numpy", "weighbridge"}
    assert record.resources is not None
    assert 10 * 2**20 < record.peak_rss_bytes < record.resources.memory_bytes
    assert (int8.artifact.scheme, int8.artifact.repo, int8.artifact.commit) == (
        "int8",
        int8.source.repo,
        int8.source.commit,
    )
    int8.store.verify(int8.artifact)


def test_progress_counts_layers_to_the_end(int8: Done) -> None:
    assert int8.progress[0] == (0, 16)
    assert int8.progress[-1] == (16, 16)
    assert [done for done, _ in int8.progress] == sorted(done for done, _ in int8.progress)
    assert {done for done, _ in int8.progress} == set(range(17))


def test_companion_files_are_copied(int8: Done) -> None:
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert (int8.folder / name).read_bytes() == (int8.source_folder / name).read_bytes()
    card = (int8.folder / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0")
    assert "W8A8" in card
    assert int8.source.commit in card
    assert "compressed-tensors 0." in card


def test_unquantized_tensors_keep_dtype_and_bytes(int4: Done) -> None:
    def bits(folder: Path) -> dict[str, tuple[str, bytes]]:
        return {
            tensor.name: (tensor.dtype, tensor.file.read_bytes()[tensor.start : tensor.start + tensor.size_bytes])
            for tensor in read_tensors(folder)
        }

    before, after = bits(int4.source_folder), bits(int4.folder)
    kept = [name for name in before if name in after]
    assert "model.embed_tokens.weight" in kept
    assert all(before[name] == after[name] for name in kept)


def test_same_release_gives_the_same_digest(int4: Done, store: Store, adopted: Callable[..., Artifact]) -> None:
    again = quantize(Installation.load(), adopted(96, 192), "int4")
    assert again.digest == int4.artifact.digest


def test_both_load_in_transformers_tied_and_close_to_the_release(int8: Done, int4: Done) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    def logits(folder: Path) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        with torch.no_grad():
            return model(torch.arange(24)[None]).logits

    for done, bound in ((int8, 0.05), (int4, 0.5)):
        published = logits(done.source_folder)
        difference = (logits(done.folder) - published).norm() / published.norm()
        assert 0 < difference < bound


def test_bf16_is_the_release_itself(store: Store, adopted: Callable[..., Artifact]) -> None:
    source = adopted()
    assert quantize(Installation.load(), source, "bf16") is source


def test_kill_of_the_quantizer_leaves_nothing(
    store: Store,
    adopted: Callable[..., Artifact],
    staged: Callable[[Store], list[str]],
    dying: Callable[[int], AbstractContextManager[None]],
) -> None:
    source = adopted()
    with dying(3), pytest.raises(QuantizationInterrupted, match=r"killed by signal 9.*nothing was kept") as failed:
        quantize(Installation.load(), source, "int8")
    assert Path(failed.value.where).is_file(), "the log stays"
    assert store.artifacts() == [source]
    assert staged(store) == []


def test_the_error_of_a_failed_quantizer_has_the_end_of_its_log(
    store: Store,
    adopted: Callable[..., Artifact],
    staged: Callable[[Store], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = adopted()
    stand_in(tmp_path, monkeypatch, "echo first >&2; echo 'ValueError: no such thing' >&2; exit 3")
    with pytest.raises(QuantizationFailed, match=r"status 3.*ValueError: no such thing"):
        quantize(Installation.load(), source, "int8")
    assert store.artifacts() == [source]
    assert staged(store) == []


def test_a_quantizer_that_ends_without_a_result_has_failed(
    store: Store, adopted: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = adopted()
    stand_in(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(QuantizationFailed, match="ended with status 0"):
        quantize(Installation.load(), source, "int8")


def test_an_unquantized_result_is_refused_whatever_the_quantizer_reports(
    store: Store,
    adopted: Callable[..., Artifact],
    staged: Callable[[Store], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """llm-compressor writes the model as it was and says that all is well."""
    source = adopted()
    copy = f'cp -r "{store.path(source)}" "$(dirname "$4")/model"'
    message = json.dumps({"layers_done": 0, "peak_rss_bytes": 1, "versions": {"llmcompressor": "0"}})
    stand_in(tmp_path, monkeypatch, f"{copy}; echo '{message}'")
    with pytest.raises(QuantizationUncovered, match="0 of 14 planned layers are quantized"):
        quantize(Installation.load(), source, "int8")
    assert store.artifacts() == [source]
    assert staged(store) == []


def test_an_interrupt_of_the_caller_stops_the_quantizer(
    store: Store,
    adopted: Callable[..., Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    staged: Callable[[Store], list[str]],
) -> None:
    source = adopted()
    stand_in(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; echo '{{\"layers_done\": 1}}'; exec sleep 600")

    def give_up(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(Installation.load(), source, "int8", progress=give_up)
    # By its number: the tests' own process may have other children.
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert staged(store) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.layers.1.self_attn.v_proj.weight", "model.embed_tokens.weight"])
@pytest.mark.parametrize("scheme", ["int8", "int4-asym", "fp8"])
def test_a_release_with_non_finite_weights_is_refused_and_nothing_is_kept(
    store: Store,
    adopted: Callable[..., Artifact],
    staged: Callable[[Store], list[str]],
    bad: Any,
    name: str,
    scheme: str,
) -> None:
    weight = np.ones((64, 64), np.float32)
    weight[63, 63] = bad
    source = adopted(**{name: weight})
    with pytest.raises(QuantizationFailed, match=f"{name} holds a value"):
        quantize(Installation.load(), source, scheme)
    assert store.artifacts() == [source]
    assert staged(store) == []


def alter_weights(store: Store, source: Artifact) -> None:
    """Flip a bit of the last weight in the store: same size, sound header, another model."""
    weights = store.unverified_folder(source) / "model/model.safetensors"
    weights.chmod(0o600)
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 0x80]))


@pytest.mark.parametrize("scheme", ["int8", "bf16"])
def test_a_release_altered_in_the_store_is_not_quantized(
    store: Store, adopted: Callable[..., Artifact], staged: Callable[[Store], list[str]], scheme: str
) -> None:
    source = adopted()
    alter_weights(store, source)
    with pytest.raises(ArtifactDamaged, match=r"model\.safetensors"):
        quantize(Installation.load(), source, scheme)
    assert store.artifacts() == [source]
    assert staged(store) == []


def test_a_release_altered_while_it_is_quantized_gives_no_candidate(
    store: Store, adopted: Callable[..., Artifact], staged: Callable[[Store], list[str]]
) -> None:
    source = adopted()

    def alter_at_the_end(done: int, total: int) -> None:
        if done == total - 2:
            alter_weights(store, source)

    with pytest.raises(ArtifactDamaged, match=r"model\.safetensors"):
        quantize(Installation.load(), source, "int8", progress=alter_at_the_end)
    assert store.artifacts() == [source]
    assert staged(store) == []


def test_a_full_disk_is_reported_before_writing(
    store: Store,
    adopted: Callable[..., Artifact],
    staged: Callable[[Store], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = adopted()
    usage = SimpleNamespace(total=10**12, used=10**12 - 5, free=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFull, match="test/tiny as int8 needs"):
        quantize(Installation.load(), source, "int8")
    assert staged(store) == []


def test_a_release_that_the_store_lost_is_named(store: Store, adopted: Callable[..., Artifact]) -> None:
    source = adopted()
    shutil.rmtree(store.unverified_folder(source))
    with pytest.raises(ArtifactMissing):
        quantize(Installation.load(), source, "int8")
