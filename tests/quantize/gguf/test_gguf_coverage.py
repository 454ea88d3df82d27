"""Every difference between a GGUF and its recipe is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.quantize.gguf import check_coverage
from tasks.source.gguf.reader import read_gguf
from tasks.source.gguf.tensor_types import TENSOR_TYPES
from tests.support.tiny_gguf import weights, write_bf16
from weighbridge.errors import QuantizationFailed, QuantizationUncovered

if TYPE_CHECKING:
    from tests.quantize.gguf.conftest import Made

pytestmark = pytest.mark.timeout(900)


def refused(made: Made) -> str:
    with pytest.raises(QuantizationUncovered) as error:
        check_coverage(made.recipe, made.folder, made.source)
    return error.value.what


def patch(made: Made, at: int, data: bytes) -> None:
    with made.file.open("r+b") as file:
        file.seek(at)
        file.write(data)


def tensor(made: Made, name: str) -> Any:
    return next(entry for entry in read_gguf(made.file).tensors if entry.name == name)


def with_tensors(made: Made, change: Any) -> Any:
    planned = {tensor.name: tensor for tensor in made.recipe.tensors}
    return made._replace(recipe=made.recipe.model_copy(update={"tensors": tuple(change(planned).values())}))


def test_a_missing_tensor_is_named(copied: Callable[[], Made]) -> None:
    made = with_tensors(
        copied(), lambda known: {**known, "more": known["output.weight"].model_copy(update={"name": "more.weight"})}
    )
    assert "23 of 24 planned tensors are quantized; more.weight: it is missing" in refused(made)


def test_an_unplanned_tensor_is_named(copied: Callable[[], Made]) -> None:
    made = with_tensors(
        copied(), lambda known: {name: tensor for name, tensor in known.items() if name != "output.weight"}
    )
    assert "output.weight was not planned" in refused(made)


def test_another_type_is_named(copied: Callable[[], Made]) -> None:
    def change(known: Any) -> Any:
        return {**known, "output.weight": known["output.weight"].model_copy(update={"kind": "q8_0"})}

    assert "output.weight: it is q6_K [295, 256], not q8_0 [295, 256]" in refused(with_tensors(copied(), change))


def test_an_unquantized_file_fails_the_check(copied: Callable[[], Made]) -> None:
    def change(known: Any) -> Any:
        return {
            name: tensor.model_copy(update={"kind": "bf16"}) if not tensor.kept else tensor
            for name, tensor in known.items()
        }

    assert "0 of 23 planned tensors are quantized" in refused(with_tensors(copied(), change))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_scale_is_named(copied: Callable[[], Made], bad: Any) -> None:
    made = copied()
    place = tensor(made, "blk.1.ffn_up.weight")
    patch(made, place.start + 5 * TENSOR_TYPES["q4_K"].block_bytes, np.float16(bad).tobytes())
    assert refused(made).endswith("blk.1.ffn_up.weight: a scale is infinite or not a number.")


def test_a_non_finite_float_is_named(copied: Callable[[], Made]) -> None:
    made = copied()
    patch(made, tensor(made, "output_norm.weight").start, np.float32(np.nan).tobytes())
    assert "output_norm.weight: a value is infinite or not a number" in refused(made)


def test_a_zero_scale_where_the_release_has_weights_is_named(copied: Callable[[], Made]) -> None:
    made = copied()
    patch(made, tensor(made, "output.weight").start + TENSOR_TYPES["q6_K"].scales[0], b"\0\0")
    assert "output.weight: 1 blocks have a zero scale where the release has weights" in refused(made)


def test_rows_that_are_zero_in_the_release_may_be_zero(copied: Callable[[], Made]) -> None:
    made = copied()
    place = tensor(made, "token_embd.weight")
    patch(made, place.start, b"\0" * place.kind.row_bytes(place.shape[-1]))
    embedding = weights()["model.embed_tokens.weight"]
    embedding[7] = 0
    write_bf16(made.source / "model.safetensors", {**weights(), "model.embed_tokens.weight": embedding})
    assert check_coverage(made.recipe, made.folder, made.source).found == 23


@pytest.mark.parametrize("left", [0, 3, 30, 5_000, -1])
def test_a_truncated_file_is_named(copied: Callable[[], Made], left: int) -> None:
    made = copied()
    made.file.write_bytes(made.file.read_bytes()[:left])
    with pytest.raises(QuantizationFailed, match=r"model\.gguf is truncated"):
        check_coverage(made.recipe, made.folder, made.source)


def test_a_file_with_more_than_its_tensors_is_named(copied: Callable[[], Made]) -> None:
    made = copied()
    with made.file.open("ab") as file:
        file.write(b"\0" * 2**20)
    assert "the tensors take" in refused(made)


def test_an_invalid_file_and_a_missing_file_are_named(copied: Callable[[], Made]) -> None:
    made = copied()
    patch(made, 0, b"GGML")
    with pytest.raises(QuantizationFailed, match=r"model\.gguf is truncated or damaged"):
        check_coverage(made.recipe, made.folder, made.source)
    made.file.unlink()
    with pytest.raises(QuantizationFailed, match=r"model\.gguf is missing"):
        check_coverage(made.recipe, made.folder, made.source)


def test_another_number_of_layers_is_named(copied: Callable[[], Made]) -> None:
    made = copied()
    path = made.source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 4}))
    assert "llama.block_count is 3 where config.json says 4" in refused(made)


def test_another_base_of_positions_is_named(copied: Callable[[], Made]) -> None:
    made = copied()
    path = made.source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_theta": 500000.0}))
    assert "llama.rope.freq_base is 10000.0 where config.json says 500000.0" in refused(made)


def test_another_end_of_turn_is_named(copied: Callable[[], Made]) -> None:
    made = copied()
    path = made.source / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "<s>"}))
    assert "tokenizer.ggml.eos_token_id is 2, '</s>', where the tokenizer says '<s>'" in refused(made)


def test_another_chat_template_is_named(copied: Callable[[], Made]) -> None:
    made = copied()
    (made.source / "chat_template.jinja").write_text("{{ messages }}")
    assert "the chat template is not the release's" in refused(made)


def test_a_vocabulary_taken_for_a_sentencepiece_one_is_named(copied: Callable[[], Made]) -> None:
    """llama.cpp loads such a file, is healthy, and answers 400 to every prompt."""
    made = copied()
    data = made.file.read_bytes()
    made.file.write_bytes(data.replace(b"<0x0A>", b"<0x0Z>"))
    assert "took the tokenizer for a SentencePiece one, which lacks <0x0A>" in refused(made)
