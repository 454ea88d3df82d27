"""A real conversion: the content of the file, and that another reader loads the release from it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from tasks.quantize.gguf import check_coverage
from tasks.quantize.methods import ggml
from tasks.quantize.tensors import opened
from tasks.source.gguf.reader import GgufTensor, read_gguf, read_rows
from tests.support.tiny_gguf import TEMPLATE, vocabulary, weights

if TYPE_CHECKING:
    from tests.quantize.gguf.conftest import Made

# The converter imports torch and transformers: ten seconds, minutes on a machine that is busy with other tests.
pytestmark = pytest.mark.timeout(900)


def values(path: Path, name: str) -> np.ndarray:
    tensor: GgufTensor = next(entry for entry in read_gguf(path).tensors if entry.name == name)
    with opened(path) as file:
        data = np.frombuffer(read_rows(file, tensor, 0, tensor.rows), np.uint8).reshape(tensor.rows, -1)
    return quants.dequantize(data, GGMLQuantizationType(tensor.kind.number))


def test_both_files_are_covered_and_as_large_as_predicted(q8_0: Made, q4_k_m: Made) -> None:
    for made in (q8_0, q4_k_m):
        coverage = check_coverage(made.recipe, made.folder, made.source)
        assert coverage.found == coverage.planned == len(made.recipe.layers)
        assert coverage.share_of_linear_bytes == 1
        assert coverage.written_bytes == made.file.stat().st_size
        assert coverage.written_bytes == pytest.approx(coverage.predicted_bytes, rel=0.01)
    assert q4_k_m.file.stat().st_size < 0.75 * q8_0.file.stat().st_size


def test_dequantized_weights_are_close_to_the_release(q8_0: Made, q4_k_m: Made) -> None:
    published = weights()
    for name, source in (
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
        ("output.weight", "lm_head.weight"),
        ("token_embd.weight", "model.embed_tokens.weight"),
    ):
        for made, bound in ((q8_0, 0.01), (q4_k_m, 0.1)):
            difference = values(made.file, name) - published[source]
            assert np.linalg.norm(difference) / np.linalg.norm(published[source]) < bound


def test_the_file_has_the_metadata_of_the_release(q4_k_m: Made) -> None:
    file = read_gguf(q4_k_m.file)
    assert file.value("general.name") == "org/tiny"
    assert file.value("general.license") == "apache-2.0"
    assert file.value("general.file_type") == 15
    assert file.value("llama.block_count") == 3
    assert file.value("tokenizer.ggml.tokens") == vocabulary()
    assert file.value("tokenizer.ggml.eos_token_id") == 2
    assert file.value("tokenizer.chat_template") == TEMPLATE


def test_progress_counts_every_quantized_tensor_once(q8_0: Made) -> None:
    assert len(q8_0.progress) == len(q8_0.recipe.layers)


def test_rounding_gives_the_same_bytes_by_any_number_of_threads(
    converted: Path, q4_k_m: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for cores in ({0}, {0, 1, 2}):
        monkeypatch.setattr(ggml.os, "sched_getaffinity", lambda pid, cores=cores: cores, raising=False)
        again = tmp_path / f"{len(cores)}.gguf"
        ggml.rewrite(read_gguf(converted), again, q4_k_m.recipe, lambda: None)
        digests.append(hashlib.sha256(again.read_bytes()).hexdigest())
    assert set(digests) == {hashlib.sha256(q4_k_m.file.read_bytes()).hexdigest()}


def test_transformers_reads_it_and_its_logits_are_near(q8_0: Made) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    def logits(folder: Path, **arguments: Any) -> Any:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **arguments)
        with torch.no_grad():
            return model(torch.arange(3, 40)[None]).logits

    published = logits(q8_0.source)
    difference = (logits(q8_0.folder, gguf_file=q8_0.file.name) - published).norm() / published.norm()
    assert 0 < difference < 0.05
