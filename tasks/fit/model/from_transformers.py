"""The tensors of an architecture that only transformers knows: its own module tree, built without memory.

Slow (torch and transformers are imported: some seconds), so what was found is kept by the digest of the config and the
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
from tasks.fit.model.parts import Piece, pieces_of
from tasks.source.headers import Tensor
from weighbridge.errors import ArchitectureUnknown
from weighbridge.files import write_whole
from weighbridge.settings import load_settings

LAYOUT_VERSION = 1
"""Of the files kept; raise it when what is written there changes."""


def meta_layout(config: Mapping[str, Any], dtype: str) -> tuple[Piece, ...]:
    """Lay a model out on the meta device.

    Args:
        config: config.json.
        dtype: of the weights, as safetensors names it.

    Raises:
        ArchitectureUnknown: transformers does not know the `model_type`, or cannot build a model from this config.
    """
    kept = _kept("tensors", config)
    try:
        found = [Tensor.model_validate(one) for one in json.loads(kept.read_text())]
    except (OSError, ValueError):
        found = _built(config)
        write_whole(kept, json.dumps([one.model_dump() for one in found]))
    return pieces_of(one.model_copy(update={"dtype": dtype}) for one in found)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what transformers' class adds where the file is silent.

    Raises:
        ArchitectureUnknown: transformers does not know the `model_type`, or does not take this config.
    """
    kept = _kept("config", config)
    try:
        made: dict[str, Any] = json.loads(kept.read_text())
    except (OSError, ValueError):
        made = _of_class(config)
        write_whole(kept, json.dumps(made, default=str))
    return {**made, **config, **{part: made[part] for part in TEXT_PARTS if part in config}}


def _kept(what: str, config: Mapping[str, Any]) -> Path:
    """Where what transformers said of a config is kept."""
    read = json.dumps([LAYOUT_VERSION, version("transformers"), config], sort_keys=True)
    return load_settings().home / "fit" / f"{hashlib.sha256(read.encode()).hexdigest()}-{what}.json"


def _of_class(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' class makes of a config."""
    model_type, plain = _for_class(config)
    from transformers import AutoConfig

    try:
        made: dict[str, Any] = AutoConfig.for_model(model_type, **plain).to_dict()
    except Exception as error:  # whatever a config class makes of fields that it does not like
        raise refused(model_type, error) from None
    return made


def _for_class(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A config's type, and what its class is made from."""
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
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    kinds = [AutoModelForCausalLM, AutoModelForImageTextToText]
    problem: Exception | None = None
    # Of a model with eyes the causal class would be its language model alone.
    for kind in reversed(kinds) if has_towers(config) else kinds:
        try:
            with torch.device("meta"):
                model = kind.from_config(AutoConfig.for_model(model_type, **plain))
        except Exception as error:  # whatever a model class makes of a config that it does not like
            problem = problem or error
            continue
        # Tied parameters come once.
        return [Tensor(name=name, shape=tuple(one.shape), dtype="BF16") for name, one in model.named_parameters()]
    raise refused(model_type, problem)


def refused(model_type: str, problem: Exception | None) -> ArchitectureUnknown:
    """The error for a config that transformers does not take."""
    return ArchitectureUnknown(
        f"transformers knows model type {model_type!r} and builds no model from this config: "
        f"{' '.join(str(problem).split())[:300]}",
        "Complete config.json, or plan from the release's safetensors files.",
        where="config.json",
    )


def unknown(config: Mapping[str, Any]) -> ArchitectureUnknown:
    """The error for a model type that nobody here knows."""
    model_type = config.get("model_type")
    what = f"has model type {model_type!r}, which is not known" if model_type else "has no `model_type`"
    return ArchitectureUnknown(
        f"config.json {what}: neither what its layers keep of a token nor which tensors it has can be said.",
        "Plan a release of a known architecture, or teach tasks/fit/model/architectures.yaml this one.",
        where="config.json",
    )
