"""rtn: round to the nearest step, without data, by llm-compressor, file by file.

Peak memory is the imports (0.5 GiB) plus about 2.3 times the largest *file*, whatever the model's size. What it
does not do: look at activations. Where that costs too much, a calibrated method is another file here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from llmcompressor import model_free_ptq
from llmcompressor.observers import MemorylessMinMaxObserver, Observer

from tasks.quantize.job import Job
from tasks.quantize.schemes import scheme

OBSERVER = "weighbridge_minmax"


def quantize(job: Job, layer_done: Callable[[], None]) -> None:
    """Write the job's quantized weights and its `config.json`.

    Args:
        job: what to do; `job.source` holds the weights and `config.json` and nothing else.
        layer_done: called after each layer.
    """
    _report_layers_to(layer_done)
    rounding = scheme(job.recipe.scheme).compressed_tensors(job.recipe.group_size)
    rounding.weights.observer = OBSERVER
    model_free_ptq(
        job.source,
        job.out,
        scheme=rounding,
        ignore=list(job.recipe.ignore),
        max_workers=1,
        # Rounding is cheap, and a GPU's rounding may differ in the last bit: the same bytes everywhere.
        device="cpu",
    )
    _forget_observer(job.out / "config.json")


def _report_layers_to(layer_done: Callable[[], None]) -> None:
    """Register llm-compressor's own min-max observer under a name of ours, with a call for each weight it has seen."""

    @Observer.register(OBSERVER)
    class ReportingObserver(MemorylessMinMaxObserver):
        _act_sync_dict: dict[str, object] = {}  # noqa: RUF012  the base class reads it from the class

        def update_statistics_from_observed(self, observed: torch.Tensor) -> None:
            super().update_statistics_from_observed(observed)
            # A first pass over shapes alone only checks that every layer can be done.
            if observed.device.type != "meta":
                layer_done()


def _forget_observer(path: Path) -> None:
    """Take the observer's name out of `config.json`: a loader elsewhere does not know it, and needs none."""
    config = json.loads(path.read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["weights"]["observer"] = None
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
