"""Rows of published models, as the tests of the planner ask for them."""

from __future__ import annotations

from typing import Any

from tasks.fit.hardware.gpus import gpu as find_gpu
from tasks.fit.hardware.gpus import gpu_names
from tasks.fit.memory.terms import PlannedModel
from tasks.fit.plan import fit_row
from tasks.fit.request import FitRequest
from tasks.fit.rows import FitRow
from tasks.schemes import scheme as find_scheme

LLAMA, MIXTURE = "meta-llama--llama-3.1-8b-instruct", "qwen--qwen3-30b-a3b"
GPUS = tuple(name for name in gpu_names() if name != "host")


def row(model: PlannedModel, gpu: str, scheme: str, tp: int = 1, pp: int = 1, **asked: Any) -> FitRow:
    asked = {"version": "0.19", "context": 8192, "concurrency": 8, **asked}
    return fit_row(model, FitRequest(**asked), find_gpu(gpu), find_scheme(scheme), tp, pp)
