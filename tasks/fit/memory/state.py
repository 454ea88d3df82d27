"""Layers with a state of fixed size in place of keys and values: Mamba, linear attention, short convolutions.

Sizes are numbers per layer and request, as vLLM allocates them (model_executor/layers/mamba/mamba_utils.py):
the convolution's last inputs and the recurrent state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tasks.fit.model.architectures import required
from weighbridge.errors import ArchitectureUnknown

Text = Mapping[str, Any]
ATTENDS = {"full_attention", "attention", "global", "sliding_attention", "chunked_attention", "local"}


class StateKind(NamedTuple):
    """Layers with the same state."""

    layers: int
    numbers: int
    """Size of one layer's state for a request."""


class States(NamedTuple):
    """Number of attention layers, and the kinds of state; in some models a layer has both."""

    attending: int
    kinds: tuple[StateKind, ...]


def state_layers(text: Text, layers: int) -> States:
    """Count a model's attention layers and layers with a state.

    Raises:
        ArchitectureUnknown: a kind of layer is unknown or a field missing; it is named.
    """
    model_type = str(text.get("model_type"))
    if model_type in FAMILIES:
        names, numbers = FAMILIES[model_type]
        attending, stateful = names(text, layers)
        return States(attending, (StateKind(stateful, numbers(text)),) if stateful else ())
    strange = sorted(set(text.get("layer_types") or ()) - ATTENDS)
    if strange:
        raise ArchitectureUnknown(
            f"config.json has layers of kind {', '.join(strange)} in `layer_types`; their cache is not known for "
            f"model type {model_type!r}.",
            "Choose a release whose layers all attend, or add this kind to tasks/fit/memory/state.py.",
            where="config.json",
        )
    return States(layers, ())


def _mamba1(text: Text) -> int:
    inner = text.get("intermediate_size") if "state_size" in text else None
    inner = int(inner or _of(text, "mamba_expand", "expand") * required(text, "hidden_size"))
    return inner * (_of(text, "mamba_d_conv", "conv_kernel", "d_conv") - 1 + _of(text, "mamba_d_state", "state_size"))


def _mamba2(text: Text) -> int:
    heads = _of(text, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
    size = _of(text, "mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")
    state = _of(text, "mamba_d_state", "ssm_state_size", "state_size")
    groups = _of(text, "mamba_n_groups", "n_groups", "mamba_ngroups")
    window = _of(text, "mamba_d_conv", "conv_kernel") - 1
    return (heads * size + 2 * groups * state) * window + heads * size * state


def _delta_net(text: Text) -> int:
    """Gated DeltaNet (Qwen3-Next)."""
    keys = required(text, "linear_num_key_heads") * required(text, "linear_key_head_dim")
    heads, width = required(text, "linear_num_value_heads"), required(text, "linear_value_head_dim")
    window = required(text, "linear_conv_kernel_dim") - 1
    return (2 * keys + heads * width) * window + heads * width * required(text, "linear_key_head_dim")


def _short_convolution(text: Text) -> int:
    return (required(text, "conv_L_cache") - 1) * required(text, "hidden_size")


def _of(text: Text, *names: str) -> int:
    """Read the first of these fields that the config has."""
    return required(text, *names)


def _listed(text: Text, layers: int) -> tuple[int, int]:
    """By `layer_types` (older: `layers_block_type`), else every n-th layer attends."""
    kinds = text.get("layer_types") or text.get("layers_block_type")
    if kinds:
        attending = sum(kind in ATTENDS for kind in kinds)
        return attending, len(kinds) - attending
    if period := text.get("attn_layer_period"):
        attending = len(range(int(text.get("attn_layer_offset") or 0), layers, int(period)))
    elif text.get("attn_layer_indices") is not None:
        attending = len(text["attn_layer_indices"])
    elif text.get("full_attn_idxs") is not None:
        attending = len(text["full_attn_idxs"])
    else:
        attending = layers // int(text.get("full_attention_interval") or 4)
    return attending, layers - attending


def _pattern(text: Text, layers: int) -> tuple[int, int]:
    """Nemotron-H: M is Mamba, * attends, - only feeds forward."""
    pattern = str(text.get("hybrid_override_pattern") or "")
    kinds = text.get("layers_block_type") or []
    if pattern:
        return pattern.count("*"), pattern.count("M")
    return sum(kind == "attention" for kind in kinds), sum(kind == "mamba" for kind in kinds)


def _both(text: Text, layers: int) -> tuple[int, int]:
    return layers, layers


def _shared(text: Text, layers: int) -> tuple[int, int]:
    """Zamba2: every layer is Mamba, and those named hybrid have attention too."""
    kinds = text.get("layers_block_type") or []
    return sum(kind == "hybrid" for kind in kinds), layers


def _all(text: Text, layers: int) -> tuple[int, int]:
    return 0, layers


FAMILIES: dict[str, tuple[Callable[[Text, int], tuple[int, int]], Callable[[Text], int]]] = {
    "mamba": (_all, _mamba1),
    "falcon_mamba": (_all, _mamba1),
    "mamba2": (_all, _mamba2),
    "jamba": (_listed, _mamba1),
    "bamba": (_listed, _mamba2),
    "granitemoehybrid": (_listed, _mamba2),
    "nemotron_h": (_pattern, _mamba2),
    "falcon_h1": (_both, _mamba2),
    "zamba2": (_shared, _mamba2),
    "qwen3_next": (_listed, _delta_net),
    "qwen3_5_text": (_listed, _delta_net),
    "qwen3_5_moe_text": (_listed, _delta_net),
    "lfm2": (_listed, _short_convolution),
    "lfm2_moe": (_listed, _short_convolution),
}
"""Model type: how to count its attention layers and its layers with a state, and the size of that state."""
