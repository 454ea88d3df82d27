"""Published files, mutated: each reader gives a value or one named error, and so does everything behind it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from examples import tiny
from tasks.fit.model.architectures import architecture, has_towers, text_config
from tasks.fit.model.published_scheme import published_scheme
from tasks.fit.model.shape import DECISIVE, shape_of_config
from tasks.fit.model.towers import tower_layout
from tasks.fit.report import fit
from tasks.source import published
from tasks.source.admission import admit
from tasks.source.answers import Model
from tasks.source.changes import SmallFiles, changes_between, changes_markdown
from tasks.source.download import published_scheme as scheme_of_download
from tasks.source.headers import parse_header
from tasks.source.pinned import Source
from tasks.source.published.tokenizer import read_index
from tasks.source.source_file import SourceFile
from tests.support.mutation import blobs, documents, examples, json_files
from weighbridge.documents import parse_json
from weighbridge.errors import ArchitectureUnknown, DocumentInvalid, DoesNotFit, SourceDamaged, SourceRefused
from weighbridge.line import Line

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "layer_types": ["full_attention", "sliding_attention"],
    "rope_scaling": {"type": "linear", "factor": 2.0, "long_factor": [1.0]},
    "rope_theta": 10000.0,
    "eos_token_id": [1, 2],
    "auto_map": {},
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
                "input_activations": None,
            }
        },
    },
}
PLAIN = {
    name: value for name, value in CONFIG.items() if name not in ("quantization_config", "rope_scaling", "auto_map")
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "modules_to_not_convert": ["lm_head"]}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
CONFIGS: list[dict[str, Any]] = [
    CONFIG,
    {**PLAIN, "quantization_config": GPTQ},
    {**PLAIN, "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 64},
    {**PLAIN, **EXPERTS, "model_type": "qwen3_moe", "decoder_sparse_step": 1, "mlp_only_layers": [0]},
    {
        **PLAIN,
        **EXPERTS,
        **LATENT,
        "model_type": "deepseek_v3",
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "quantization_config": FP8,
    },
    {"model_type": "gemma3", "text_config": {**PLAIN, "model_type": "gemma3_text"}, "vision_config": VISION},
]
TOKENIZER_CONFIG: dict[str, Any] = {
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "special": True},
    "added_tokens_decoder": {"0": {"content": "<s>"}, "1": {"content": "</s>"}},
    "additional_special_tokens": ["<a>", {"content": "<b>"}],
    "add_bos_token": True,
    "chat_template": [{"name": "default", "template": "{{ messages }}"}],
    "model_max_length": 10**30,
    "tokenizer_class": "LlamaTokenizer",
}
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [{"id": 0, "content": "<s>", "special": True}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": None,
    "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2}, "merges": ["a b", "b a"], "byte_fallback": False},
}
GENERATION = {"eos_token_id": [1, 2], "do_sample": True, "temperature": 0.6, "stop_strings": ["</s>"]}
INDEX = {
    "metadata": {"total_size": 8},
    "weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"},
}
CARD = (
    b"---\nlicense: other\nlicense_name: acme-1.0\nlicense_link: https://example.org/terms\nbase_model:\n- acme/base\n"
    b"tags: [a, b]\n---\n# Acme\n"
)
ANSWER = {
    "id": "acme/tiny",
    "sha": "a" * 40,
    "gated": False,
    "disabled": False,
    "createdAt": "2026-01-01T00:00:00.000Z",
    "tags": ["license:mit"],
    "cardData": {"license": "mit"},
    "safetensors": {"total": 5},
    "siblings": [{"rfilename": "a", "size": 1, "blobId": "b" * 40, "lfs": {"sha256": "c" * 64, "size": 1}}],
}
HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]},
}
READERS: dict[str, tuple[Callable[[bytes, str], Any], Any]] = {
    "config.json": (published.read_config, CONFIG),
    "tokenizer_config.json": (published.read_tokenizer_config, TOKENIZER_CONFIG),
    "special_tokens_map.json": (published.read_special_tokens, TOKENIZER_CONFIG),
    "generation_config.json": (published.read_generation_config, GENERATION),
    "chat_template.json": (published.read_template_file, {"chat_template": "{{ messages }}"}),
    "tokenizer.json": (published.read_tokenizer, TOKENIZER),
    "model.safetensors.index.json": (read_index, INDEX),
}
LINE = Line.model_validate(
    {
        "name": "tiny",
        "source": "hf://acme/tiny",
        "admission": {"licences": ["apache-2.0"]},
        "schemes": ["bf16", "int8"],
        "target": {"gpus": ["L4"], "context": 128, "concurrency": 1},
        "suites": [{"name": "general/x"}],
    }
)


@pytest.mark.parametrize("name", READERS)
def test_the_valid_file_is_read_as_it_is(name: str) -> None:
    reader, valid = READERS[name]
    found = reader(json.dumps(valid).encode(), name)
    assert found == (valid["weight_map"] if name.endswith("index.json") else valid)


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_a_value_or_refused_with_its_name(name: str) -> None:
    reader, valid = READERS[name]

    @examples()
    @given(json_files(valid))
    def fuzz(content: bytes) -> None:
        try:
            reader(content, name)
        except SourceRefused as error:
            assert name in error.what and error.next_step

    fuzz()


@examples()
@given(blobs(CARD))
def test_a_mutated_card_is_a_card(content: bytes) -> None:
    assert isinstance(published.read_card(content).licences, tuple)


@examples()
@given(json_files(ANSWER))
def test_a_mutated_answer_of_the_hub_is_an_answer_or_no_answer(content: bytes) -> None:
    with suppress(DocumentInvalid, ValidationError):
        assert Model.model_validate(parse_json(content, "hub")).id


@examples()
@given(json_files(HEADER), st.integers(0, 400))
def test_a_mutated_header_is_read_or_damaged(header: bytes, size: int) -> None:
    try:
        parse_header("x.safetensors", header, size)
    except SourceDamaged as error:
        assert "x.safetensors" in error.what


@examples(fewer=2)
@given(st.sampled_from(CONFIGS).flatmap(documents))
def test_a_mutated_config_is_planned_or_refused(config: Any) -> None:
    """All that reads a config before a byte of the weights: admission, schemes, the whole plan."""
    try:
        found = published.read_config(json.dumps(config).encode(), "config.json")
    except SourceRefused:
        return
    source = Source(
        repo="acme/tiny",
        commit="0" * 40,
        licence="apache-2.0",
        gated=False,
        config=found,
        files=(SourceFile(path="model.safetensors", size_bytes=8, sha256="0" * 64),),
        ignored=(),
    )
    text = text_config(found)
    # What only transformers knows is laid out in a child process, which takes seconds.
    here = architecture(str(text.get("model_type"))) and not any(text.get(name) is None for name in DECISIVE)
    for use in (
        lambda: admit(source, LINE),
        lambda: scheme_of_download(found, []),
        lambda: published_scheme(found),
        lambda: fit(shape_of_config("tiny", found), LINE) if here and not has_unknown_towers(found) else None,
    ):
        try:
            use()
        except (SourceRefused, ArchitectureUnknown, DoesNotFit) as error:
            assert error.next_step


def has_unknown_towers(config: dict[str, Any]) -> bool:
    try:
        return has_towers(config) and tower_layout(config, "BF16") is None
    except ArchitectureUnknown:
        return False


@examples(fewer=3)
@given(st.sampled_from(["config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"]), st.data())
def test_mutated_files_are_compared_or_refused(name: str, data: st.DataObject) -> None:
    valid = {path: json.dumps(value).encode() for path, (_, value) in READERS.items()}
    before = SmallFiles(name="old", contents=valid)
    changed = json.dumps(data.draw(documents(READERS[name][1]))).encode()
    try:
        report = changes_between(before, SmallFiles(name="new", contents={**valid, name: changed, "README.md": CARD}))
    except SourceRefused as error:
        assert name in error.what
    else:
        assert changes_markdown(report).encode()


def test_a_release_with_every_file_is_admitted(hub: Any, line: Any) -> None:
    from tasks.source.provider import pin

    with tempfile.TemporaryDirectory() as scratch:
        folder = tiny.build(Path(scratch) / "release")
        (folder / "generation_config.json").write_text(json.dumps(GENERATION))
        (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
        hub.publish(folder)
    source = pin(hub.installation, line)
    assert source.flaws == ()
    admit(source, line)
