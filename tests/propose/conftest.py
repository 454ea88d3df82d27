"""A line, a release and two weighed candidates, made by the real judge from made-up answers."""

from __future__ import annotations

import hashlib

import pytest

from registry.store import Artifact
from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.verdict.verdict import judge, judge_suite
from tasks.evaluate.weigh import Weighed
from tasks.fit.rows import EngineSizing, FitReport, FitRow
from tasks.propose.dossier import Dossier
from tasks.source.pinned import Source
from weighbridge.line import Line

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOSTILE = "<script>alert('answer')</script> | **bold** & \"quoted\" \x1b[1A\u202egnp.exe"
SUITES = {"general/agreement": (400, 6, 5), "general/choice": (300, 3, 9), "regression/toy": (120, 0, 1)}
"""Suite -> items, of which only the candidate, and of which only production, got right."""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _scores(suite: str, label: str, size: int, wrong: set[int], must_pass: bool) -> SuiteScores:
    items = tuple(
        ItemScore(
            id=f"{suite}-{number}",
            score=0.0 if number in wrong else 1.0,
            question=f"Question {number} of {suite}? {HOSTILE}",
            answer=f"{label} says {HOSTILE}",
            must_pass=must_pass and number == 0,
        )
        for number in range(size)
    )
    return SuiteScores(
        suite=suite,
        suite_digest=_digest(suite),
        artifact_digest=_digest(label),
        scorer="lm-eval 0.4.13, float32",
        items=items,
        seconds=12.3,
    )


def _weighed(line: Line, scheme: str, extra_lost: int, baseline: bool) -> Weighed:
    candidate_scores, production_scores = [], []
    for suite, (size, gained, lost) in SUITES.items():
        lost += extra_lost if suite == "general/choice" else 0
        # Item 0 must pass in the regression suite; only a candidate with `extra_lost` fails it.
        must_fail = {0} if extra_lost and suite.startswith("regression") else set()
        candidate_scores.append(
            _scores(suite, scheme, size, set(range(1, 1 + lost)) | must_fail, suite.startswith("regression"))
        )
        production_scores.append(
            _scores(suite, "bf16", size, set(range(200, 200 + gained)) if size > 200 + gained else set(), False)
        )
    margins = {use.name: use.margin for use in line.suites}
    verdicts = [
        judge_suite(
            candidate, None if baseline else production, margin=margins[candidate.suite], confidence=line.confidence
        )
        for candidate, production in zip(candidate_scores, production_scores)
    ]
    artifact = Artifact(
        line=line.name, digest=_digest(scheme), scheme=scheme, repo="org/toy", commit=COMMIT, size_bytes=170_000_000
    )
    against = None if baseline else _digest("bf16")
    return Weighed(
        artifact=artifact,
        verdict=judge(artifact.digest, against, verdicts, list(SUITES)),
        candidate_scores=tuple(candidate_scores),
        production_scores=() if baseline else tuple(production_scores),
    )


@pytest.fixture
def line() -> Line:
    """A line of three suites."""
    return Line.model_validate(
        {
            "name": "toy",
            "source": "hf://org/toy",
            "admission": {"licences": ["apache-2.0"]},
            "schemes": ["int8", "int4"],
            "target": {"gpus": ["host"], "context": 2048, "concurrency": 8},
            "suites": [{"name": name, "margin": 0.05} for name in SUITES],
        }
    )


@pytest.fixture
def source() -> Source:
    """A pinned release."""
    return Source(repo="org/toy", commit=COMMIT, licence="apache-2.0", gated=False, config={}, files=(), ignored=())


@pytest.fixture
def fit() -> FitReport:
    """What the fit room says of two schemes on two GPUs."""
    sizes = (("host", "int8", 0.16, 22.0), ("L4", "int8", 0.16, 22.5), ("host", "int4", 0.11, 22.0))
    rows = tuple(
        FitRow(
            gpu=gpu,
            scheme=scheme,
            weights_gib=weights,
            kv_bytes_per_token=23040,
            kv_gib=capacity - weights - 0.5,
            kv_needed_gib=0.36,
            kv_tokens=480 * 2048,
            activation_gib=0.25,
            non_torch_gib=0.25,
            cuda_graph_gib=0.0,
            rule_of_thumb_gib=1.2 * weights,
            band_gib=0.3,
            total_gib=weights + 0.86,
            capacity_gib=capacity,
            max_concurrency=480.25,
            verdict="fits",
            reason="",
        )
        for gpu, scheme, weights, capacity in sizes
    )
    plan = EngineSizing(context=2048, concurrency=8, kv_gib=0.36)
    return FitReport(model="org/toy", profile="transformers", rows=rows, schemes=("int8", "int4"), plan=plan)


@pytest.fixture
def passed(line: Line) -> Weighed:
    """No worse in every suite."""
    return _weighed(line, "int8", 0, False)


@pytest.fixture
def damaged(line: Line) -> Weighed:
    """Much worse in one suite, and failing a must-pass item."""
    return _weighed(line, "int4", 150, False)


@pytest.fixture
def baseline(line: Line) -> Weighed:
    """A line's first."""
    return _weighed(line, "bf16", 0, True)


@pytest.fixture
def dossier(line: Line, source: Source, passed: Weighed, fit: FitReport) -> Dossier:
    """The passing candidate's papers."""
    return Dossier(line, source, passed, fit, None)
