"""Vision towers and their projectors, from `config.json` alone.

Each kind of tower and of projector is one function, found by its `model_type`. Names begin with `vision` or
`multi_modal`, as in published checkpoints: no scheme quantizes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tasks.fit.model.architectures import required, text_config
from tasks.fit.model.parts import Part

Config = Mapping[str, Any]
Parts = Iterator[tuple[str, tuple[int, ...]]]


def tower_layout(config: Config, dtype: str) -> tuple[Part, ...] | None:
    """Lay out a model's vision tower and projector; None if one of them is unknown.

    Raises:
        ArchitectureUnknown: a field is missing; it is named.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping) or isinstance(config.get("audio_config"), Mapping):
        return None
    tower = TOWERS.get(str(vision.get("model_type")))
    projector = PROJECTORS.get(str(config.get("model_type")))
    if tower is None or projector is None:
        return None
    hidden = required(text_config(config), "hidden_size")
    parts = [Part(f"vision_tower.{name}", shape, dtype) for name, shape in tower(vision)]
    parts += [Part(f"multi_modal_projector.{name}", shape, dtype) for name, shape in projector(config, hidden)]
    return tuple(parts)


def _siglip(vision: Config) -> Parts:
    """SigLIP (arXiv 2303.15343) without its pooling head, which vision-language models drop."""
    yield from _patches(vision, bias=True)
    yield "embeddings.position_embedding.weight", (_patch_count(vision), _width(vision))
    yield from _blocks(vision)
    yield from _norm("post_layernorm", _width(vision))


def _clip(vision: Config) -> Parts:
    """CLIP (arXiv 2103.00020): an extra position for the class token, and a norm before the blocks."""
    yield from _patches(vision, bias=False)
    yield "embeddings.class_embedding", (_width(vision),)
    yield "embeddings.position_embedding.weight", (_patch_count(vision) + 1, _width(vision))
    yield from _norm("pre_layrnorm", _width(vision))
    yield from _blocks(vision)
    yield from _norm("post_layernorm", _width(vision))


def _pixtral(vision: Config) -> Parts:
    """Pixtral (arXiv 2410.07073): rotary positions, gated feed-forward, RMS norms, no biases."""
    width, inner = _width(vision), required(vision, "intermediate_size")
    yield from _patches(vision, bias=False)
    yield "ln_pre.weight", (width,)
    for layer in range(required(vision, "num_hidden_layers")):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"transformer.layers.{layer}.attention.{name}.weight", (width, width)
        for name, shape in (("gate_proj", (inner, width)), ("up_proj", (inner, width)), ("down_proj", (width, inner))):
            yield f"transformer.layers.{layer}.feed_forward.{name}.weight", shape
        for name in ("attention_norm", "ffn_norm"):
            yield f"transformer.layers.{layer}.{name}.weight", (width,)


def _moonvit(vision: Config) -> Parts:
    """MoonViT (Kimi-VL, arXiv 2504.07491, section 2.1): queries, keys and values in one matrix, learned positions."""
    width, inner = _width(vision), required(vision, "intermediate_size")
    yield from _patches(vision, bias=True)
    height, across = required(vision, "init_pos_emb_height"), required(vision, "init_pos_emb_width")
    yield "patch_embed.pos_emb.weight", (height, across, width)
    for layer in range(required(vision, "num_hidden_layers")):
        block = f"encoder.blocks.{layer}"
        yield from _norm(f"{block}.norm0", width)
        yield from _norm(f"{block}.norm1", width)
        for name, rows, columns in (("wqkv", 3 * width, width), ("wo", width, width)):
            yield from _linear(f"{block}.{name}", rows, columns)
        yield from _linear(f"{block}.mlp.fc0", inner, width)
        yield from _linear(f"{block}.mlp.fc1", width, inner)
    yield from _norm("encoder.final_layernorm", width)


def _gemma3_projector(config: Config, hidden: int) -> Parts:
    width = _width(config["vision_config"])
    yield "mm_input_projection_weight", (width, hidden)
    yield "mm_soft_emb_norm.weight", (width,)


def _mistral3_projector(config: Config, hidden: int) -> Parts:
    width, merge = _width(config["vision_config"]), required(config, "spatial_merge_size")
    bias = bool(config.get("multimodal_projector_bias"))
    yield "norm.weight", (width,)
    yield "patch_merger.merging_layer.weight", (width, width * merge * merge)
    yield from _linear("linear_1", hidden, width * _feature_layers(config), bias)
    yield from _linear("linear_2", hidden, hidden, bias)


def _llava_projector(config: Config, hidden: int) -> Parts:
    bias = config.get("multimodal_projector_bias", True) is not False
    yield from _linear("linear_1", hidden, _width(config["vision_config"]) * _feature_layers(config), bias)
    yield from _linear("linear_2", hidden, hidden, bias)
    if config.get("model_type") == "llava_next":
        yield "image_newline", (hidden,)


def _kimi_projector(config: Config, hidden: int) -> Parts:
    vision = config["vision_config"]
    height, across = vision.get("merge_kernel_size") or (2, 2)
    merged = _width(vision) * int(height) * int(across)
    yield from _norm("pre_norm", _width(vision))
    yield from _linear("linear_1", merged, merged)
    yield from _linear("linear_2", hidden, merged)


def _feature_layers(config: Config) -> int:
    """Number of tower layers whose outputs are concatenated."""
    chosen = config.get("vision_feature_layer", -1)
    return len(chosen) if isinstance(chosen, list) else 1


def _width(vision: Config) -> int:
    return required(vision, "hidden_size")


def _patch_count(vision: Config) -> int:
    return int((required(vision, "image_size") // required(vision, "patch_size")) ** 2)


def _patches(vision: Config, *, bias: bool) -> Parts:
    side = required(vision, "patch_size")
    yield "patch_embedding.weight", (_width(vision), 3, side, side)
    if bias:
        yield "patch_embedding.bias", (_width(vision),)


def _blocks(vision: Config) -> Parts:
    """Standard vision transformer blocks, with biases everywhere."""
    width, inner = _width(vision), required(vision, "intermediate_size")
    for layer in range(required(vision, "num_hidden_layers")):
        block = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{block}.self_attn.{name}", width, width)
        yield from _linear(f"{block}.mlp.fc1", inner, width)
        yield from _linear(f"{block}.mlp.fc2", width, inner)
        yield from _norm(f"{block}.layer_norm1", width)
        yield from _norm(f"{block}.layer_norm2", width)


def _linear(name: str, rows: int, columns: int, bias: bool = True) -> Parts:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _norm(name: str, width: int) -> Parts:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


TOWERS: dict[str, Callable[[Config], Parts]] = {
    "siglip_vision_model": _siglip,
    "clip_vision_model": _clip,
    "pixtral": _pixtral,
    "moonvit": _moonvit,
}
PROJECTORS: dict[str, Callable[[Config, int], Parts]] = {
    "gemma3": _gemma3_projector,
    "mistral3": _mistral3_projector,
    "llava": _llava_projector,
    "llava_next": _llava_projector,
    "kimi_vl": _kimi_projector,
}
