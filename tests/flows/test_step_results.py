"""Results of cached steps: Prefect stores the name of their class, so a class that moves needs a new version."""

from __future__ import annotations

import re
from typing import Any, get_type_hints

import pytest

from tasks.evaluate import score_steps, step, verdict_steps
from tasks.fit import step as fit_step
from tasks.propose import step as propose_step
from tasks.quantize import step as quantize_step
from tasks.serve import step as serve_step
from tasks.source import step as source_step
from tasks.steps import step as make_step

RESULTS: list[tuple[Any, str, str]] = [
    (source_step.admit, "1", "str"),
    (source_step.download, "1", "registry.store.artifact.Artifact"),
    (source_step.what_changed, "1", "tasks.source.changes.change.ChangeReport | None"),
    (fit_step.fit, "1", "tasks.fit.rows.FitReport"),
    (fit_step.refit, "1", "tasks.fit.rows.FitReport"),
    (quantize_step.quantize, "1", "registry.store.artifact.Artifact"),
    (step.forecast, "1", "list[tasks.evaluate.forecast.Forecast]"),
    (step.drift_check, "1", "tasks.evaluate.drift.report.DriftReport"),
    (step.weigh, "1", "tasks.evaluate.weigh.Weighed"),
    (score_steps.score_tasks, "1", "list[tasks.evaluate.scoring.scores.SuiteScores]"),
    (score_steps.noise_floor, "2", "list[tasks.evaluate.scoring.scores.SuiteScores]"),
    (score_steps.score_prompts, "1", "list[tasks.evaluate.scoring.scores.SuiteScores]"),
    (verdict_steps.compare_answers, "1", "tasks.evaluate.drift.report.DriftReport"),
    (verdict_steps.draw_verdict, "2", "tasks.evaluate.verdict.verdict.Verdict"),
    (propose_step.record_candidates, "3", "tasks.propose.release.Release"),
    (serve_step.keep_reference, "1", "int"),
]


def steps_of(*modules: Any) -> set[str]:
    return {
        value.name
        for module in modules
        for value in vars(module).values()
        if getattr(value, "cache_key_fn", None) is not None
    }


def test_the_list_has_every_cached_step() -> None:
    modules = (source_step, fit_step, quantize_step, step, score_steps, verdict_steps, propose_step, serve_step)
    assert steps_of(*modules) == {task.name for task, _, _ in RESULTS}


@pytest.mark.parametrize(("task", "version", "result"), RESULTS)
def test_a_result_class_that_moves_needs_a_new_version(task: Any, version: str, result: str) -> None:
    hint = get_type_hints(task.fn)["return"]
    name = hint.__qualname__ if hint in (int, str) else re.sub(r"<class '(.+)'>", r"\1", str(hint))
    assert (task.version, name) == (version, result), "raise the step's version, then this line"


def test_a_result_of_an_earlier_version_is_not_found() -> None:
    def work(number: int) -> int:
        return number

    def key(version: int) -> str | None:
        task: Any = make_step("work-{number}", key=lambda number: [number], version=version)(work)
        found: str | None = task.cache_key_fn(None, {"number": 1})
        return found

    assert len({key(1), key(2), key(3)}) == 3
    assert key(2) == key(2)
