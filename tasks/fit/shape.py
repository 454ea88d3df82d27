"""A model as the planner sees it: its config and its tensors, wherever they came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.fit.weights import tensors_of_folder, tensors_of_hub
from tasks.source.headers import Tensor
from tasks.source.hub import CONFIG, Source
from weighbridge.errors import ArchitectureUnknown


class ModelShape(BaseModel):
    """What decides a model's memory."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Repository and commit, or a folder; for messages."""
    config: dict[str, Any]
    """config.json."""
    tensors: tuple[Tensor, ...]
    """As published."""

    @property
    def quantized_by(self) -> str | None:
        """The method that a release was already quantized with."""
        found = self.config.get("quantization_config")
        return str(found.get("quant_method", "an unnamed method")) if isinstance(found, dict) else None


def shape_of_source(source: Source) -> ModelShape:
    """The shape of a pinned release, from its headers on the Hub.

    Raises:
        SourceUnreachable, SourceUnknown, SourceDamaged: the headers could not be read.
    """
    return ModelShape(name=source.short, config=source.config, tensors=tensors_of_hub(source))


def shape_of_folder(folder: Path) -> ModelShape:
    """The shape of a model in a folder.

    Raises:
        ArchitectureUnknown: the folder has no config.json that could be read.
        SourceDamaged: a header does not describe its file.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        raise ArchitectureUnknown(
            f"{folder} has no {CONFIG} that could be read.", "Name the folder of a model.", where=str(folder)
        ) from None
    return ModelShape(name=folder.name, config=config, tensors=tensors_of_folder(folder))
