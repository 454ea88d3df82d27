"""Hold a release's layers against the number that its config says: a truncated model answers, and answers nonsense."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.quantize.plan.roles import layer_count, stacks_of
from weighbridge.errors import QuantizationFailed


def require_layers(config: Mapping[str, Any], names: Iterable[str], folder: Path) -> None:
    """Check that the files have every layer that the config counts.

    Raises:
        QuantizationFailed: there are fewer; the first absent one is named.
    """
    counted, stacks = layer_count(config), stacks_of(names)
    if not counted or not stacks or any(set(range(counted)) <= numbers for numbers in stacks.values()):
        return
    # Some architectures keep two stacks of half the length, or repeat one layer: only gaps and short ends are faults.
    name, numbers = max(stacks.items(), key=lambda stack: len(stack[1]))
    absent = min(set(range(counted)) - numbers)
    raise QuantizationFailed(
        f"config.json counts {counted} layers, and the files have no {name}.{absent}.",
        "Download the release again: `weighbridge release LINE --fresh`; if it stays so, tell its publisher.",
        where=str(folder),
    )
