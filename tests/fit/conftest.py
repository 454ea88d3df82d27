"""Models of known size, as the planner sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tasks.fit.catalogue import model_of
from tasks.fit.hardware import gpus
from tasks.fit.memory.terms import PlannedModel
from tasks.fit.model.shape import ModelShape, shape_of_config
from weighbridge.line import Line

FACTS = Path(__file__).parents[2] / "benchmarks" / "fit_models"


@cache
def _text(name: str) -> str:
    return (FACTS / f"{name}.json").read_text()


def _config(name: str) -> dict[str, Any]:
    return json.loads(_text(name))


@cache
def _shape(name: str) -> ModelShape:
    return shape_of_config(name, _config(name))


@pytest.fixture(scope="session")
def published_config() -> Callable[[str], dict[str, Any]]:
    """The config of a public model, by its file in benchmarks/fit_models; a copy that tests may change."""
    return _config


@pytest.fixture(scope="session")
def published_shape() -> Callable[[str], ModelShape]:
    """A public model planned from its config alone, by its file in benchmarks/fit_models."""
    return _shape


@pytest.fixture(scope="session")
def llama() -> ModelShape:
    return _shape("meta-llama--llama-3.1-8b-instruct")


@pytest.fixture
def fresh_gpus() -> Iterator[None]:
    """Clear the process-wide catalogue of GPUs before and after a test that adds to it."""
    gpus._catalogue.cache_clear()
    yield
    gpus._catalogue.cache_clear()


@pytest.fixture
def make_line() -> Callable[..., Line]:
    def make(*on: str, schemes: list[str], engine: str = "vllm", flags: Any = None, **target: int) -> Line:
        return Line.model_validate(
            {
                "name": "llama",
                "source": "hf://acme/llama",
                "admission": {"licences": ["llama3.1"]},
                "schemes": schemes,
                "target": {"gpus": list(on), **target},
                "engine": {"name": engine, "flags": flags or {}},
                "suites": [{"name": "general/agreement"}],
            }
        )

    return make


@pytest.fixture(scope="module")
def model(published_shape: Callable[[str], ModelShape]) -> Callable[[str], PlannedModel]:
    known: dict[str, PlannedModel] = {}

    def of(name: str) -> PlannedModel:
        return known.setdefault(name, model_of(published_shape(name)))

    return of
