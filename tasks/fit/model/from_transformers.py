"""The tensors of an architecture that only transformers knows: its module tree, built on the meta device.

Slow (torch and transformers are imported: some seconds), so results are cached by the digest of the config and the
version of transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.fit.model.architectures import TEXT_PARTS, has_towers
from tasks.fit.model.parts import Part, parts_of
from tasks.source.headers import Tensor
from weighbridge.errors import ArchitectureUnknown
from weighbridge.files import write_whole
from weighbridge.settings import load_settings
from weighbridge.untrusted import Limits, Unfinished, call

LIMITS = Limits(seconds=180, memory_bytes=8 * 2**30, output_bytes=64 * 2**20)
"""The largest known model is laid out in 40 s, imports included, on two busy cores."""
LAYOUT_VERSION = 1
"""Version of the cache files; raise it when their content changes."""


def meta_layout(config: Mapping[str, Any], dtype: str) -> tuple[Part, ...]:
    """Lay a model out on the meta device.

    Args:
        config: config.json.
        dtype: of the weights, as safetensors names it.

    Raises:
        ArchitectureUnknown: transformers does not know the `model_type`, or cannot build a model from this config.
    """
    cached = _cache_file("tensors", config)
    try:
        found = [Tensor.model_validate(tensor) for tensor in json.loads(cached.read_text())]
    except (OSError, ValueError):
        found = _built(config)
        write_whole(cached, json.dumps([tensor.model_dump() for tensor in found]))
    return parts_of(tensor.model_copy(update={"dtype": dtype}) for tensor in found)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of transformers' class for a config.

    Raises:
        ArchitectureUnknown: transformers does not know the `model_type`, or rejects this config.
    """
    cached = _cache_file("config", config)
    try:
        filled: dict[str, Any] = json.loads(cached.read_text())
    except (OSError, ValueError):
        filled = _of_class(config)
        write_whole(cached, json.dumps(filled, default=str))
    return {**filled, **config, **{part: filled[part] for part in TEXT_PARTS if part in config}}


def _cache_file(what: str, config: Mapping[str, Any]) -> Path:
    """The cache file for a config."""
    read = json.dumps([LAYOUT_VERSION, version("transformers"), config], sort_keys=True)
    return load_settings().home / "fit" / f"{hashlib.sha256(read.encode()).hexdigest()}-{what}.json"


def _of_class(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read a config through its transformers class."""
    model_type, plain = _for_class(config)
    try:
        filled: dict[str, Any] = call(class_defaults, model_type, plain, limits=LIMITS)
    except Unfinished as error:
        raise refused(model_type, str(error)) from None
    return filled


def _for_class(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A config's type, and the arguments of its class."""
    model_type = str(config.get("model_type"))
    if not transformers_knows(model_type):
        raise unknown(config)
    return model_type, {
        name: value for name, value in config.items() if name not in ("model_type", "quantization_config")
    }


def transformers_knows(model_type: str) -> bool:
    """Whether transformers has a configuration of this name."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def _built(config: Mapping[str, Any]) -> list[Tensor]:
    model_type, plain = _for_class(config)
    try:
        found = call(tensors_of_class, model_type, plain, has_towers(config), limits=LIMITS)
    except Unfinished as error:
        raise refused(model_type, str(error)) from None
    return [Tensor(name=name, shape=tuple(shape), dtype="BF16") for name, shape in found]


def refused(model_type: str, problem: str) -> ArchitectureUnknown:
    """The error for a config that transformers rejects."""
    return ArchitectureUnknown(
        f"transformers knows model type {model_type!r} and builds no model from this config: {problem[:300]}",
        "Complete config.json, or plan from the release's safetensors files.",
        where="config.json",
    )


def unknown(config: Mapping[str, Any]) -> ArchitectureUnknown:
    """The error for an unknown model type."""
    model_type = config.get("model_type")
    what = f"has model type {model_type!r}, which is not known" if model_type else "has no `model_type`"
    return ArchitectureUnknown(
        f"config.json {what}: neither its cache nor its tensors can be derived.",
        "Plan a release of a known architecture, or add this one to tasks/fit/model/architectures.yaml.",
        where="config.json",
    )


# --- in a child process, since a class may loop for ever over what a config says ----------


def class_defaults(model_type: str, fields: dict[str, Any]) -> Any:
    """A config with the defaults of its class."""
    from transformers import AutoConfig

    return json.loads(json.dumps(AutoConfig.for_model(model_type, **fields).to_dict(), default=str))


def tensors_of_class(model_type: str, fields: dict[str, Any], towers: bool) -> list[tuple[str, list[int]]]:
    """Names and shapes of the parameters of a model on the meta device; tied ones once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    kinds = [AutoModelForCausalLM, AutoModelForImageTextToText]
    problem: Exception | None = None
    # For a vision-language model the causal class would build its language model alone.
    for kind in reversed(kinds) if towers else kinds:
        try:
            with torch.device("meta"):
                model = kind.from_config(AutoConfig.for_model(model_type, **fields))
        except MemoryError:
            raise
        except Exception as error:  # model classes raise anything for configs that they reject
            problem = problem or error
            continue
        return [(name, list(weight.shape)) for name, weight in model.named_parameters()]
    assert problem
    raise problem
