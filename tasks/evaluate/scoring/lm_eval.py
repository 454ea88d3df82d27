"""Scores on the general suites: what the book has is taken, the rest is scored in one child process."""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from tasks.evaluate.scoring.lm_eval_child import Job, RemoteModel
from tasks.evaluate.scoring.lm_eval_process import ScoringProcess
from tasks.evaluate.scoring.model_files import ModelFiles, read_model_files
from tasks.evaluate.scoring.partial_scores import finish_suite, open_partial_scores, scores_before_gap
from tasks.evaluate.scoring.scores import Conditions, ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import Suite
from weighbridge.processor import has_fast_bf16
from weighbridge.settings import load_settings

BATCH_SIZE = 8
NOISE_BATCH_SIZE = BATCH_SIZE // 2 + 1
"""For production's second scoring: sums are rounded in another order."""
"""Larger batches gain nothing on a CPU (measured: 240 tokens a CPU-second at 8 × 12 as at 64 × 12 tokens)."""
CHUNK_ITEMS = 64
"""Scored at once and kept together: as much is lost at most when the process is killed."""
PACKAGES = ("transformers", "torch", "compressed-tensors")

Progress = Callable[[str, int, int], None]
Order = Callable[[Suite, Mapping[str, ItemScore]], Sequence[str]]
Stop = Callable[[Suite, list[ItemScore]], bool]


class LmEvalScorer:
    """How one model is scored on general suites.

    Args:
        artifact_digest: the model's identity in the book.
        model: its files, or an endpoint that gives prompt log-probabilities.
        engine: what an endpoint says that it is.
        facts: of the model; read from its files by default.
        batch_size: items at once; changes scores by no more than rounding, which is the noise floor.
        api_key: of an endpoint.
    """

    def __init__(
        self,
        artifact_digest: str,
        model: Path | RemoteModel,
        *,
        engine: str = "",
        model_files: ModelFiles | None = None,
        batch_size: int | None = None,
        api_key: str | None = None,
    ) -> None:
        self.artifact_digest, self.model, self.api_key = artifact_digest, model, api_key
        self.batch_size = batch_size or BATCH_SIZE
        remote = isinstance(model, RemoteModel)
        self.engine = engine if remote else " ".join(f"{package} {version(package)}" for package in PACKAGES)
        self._facts = model_files

    @property
    def name(self) -> str:
        """The scorer's name in the book."""
        if isinstance(self.model, RemoteModel):
            return remote_scorer_name(self.engine, self.batch_size)
        return local_scorer_name(self.batch_size)

    @property
    def conditions(self) -> Conditions:
        """How its scores come about."""
        model_files = self._facts
        if model_files is None:
            model_files = read_model_files(self.model) if isinstance(self.model, Path) else ModelFiles()
        here = "" if isinstance(self.model, RemoteModel) else f"{scoring_dtype()} {device_name()}"
        return Conditions(
            scorer=f"lm-eval {version('lm-eval')}",
            parsing="plain text, the harness's metric",
            engine=self.engine,
            flags=here,
            batch=str(self.batch_size),
            **model_files.model_dump(),
        )

    def key(self, suite: Suite) -> dict[str, str]:
        """What the book finds a suite's scores by."""
        return {"artifact_digest": self.artifact_digest, "suite_digest": suite.digest, "scorer": self.name}

    @property
    def job(self) -> Job:
        """The same for the child."""
        model = self.model if isinstance(self.model, RemoteModel) else self.model.resolve()
        return Job(model=model, device=scoring_device(), dtype=scoring_dtype(), batch_size=self.batch_size)


def score_by_lm_eval(
    scoring: LmEvalScorer,
    suites: Sequence[Suite],
    cache: ScoreCache,
    *,
    progress: Progress | None = None,
    enough: Callable[[SuiteScores], bool] = lambda _: False,
    order: Order | None = None,
    stop: Stop | None = None,
) -> list[SuiteScores]:
    """Score a model on general suites.

    Args:
        scoring: the model, and how it is scored.
        suites: general suites, in the order wanted back.
        book: holds what was scored before; each suite is added as soon as it is done, and each chunk of one to a
            journal beside it.
        progress: called with a suite's name, items done and items in all.
        enough: asked after each suite whether the rest may be spared; the scores so far are returned then.
        order: a suite's ids in the order in which they are scored, as far as its items so far decide it; a fair one
            of its own by default.
        stop: asked after each chunk of a suite, with its items so far in the order in which they were scored, whether
            the rest of the suite may be spared.

    Raises:
        ScoringFailed: the child died, hung or gave scores that cannot be right; what was scored is kept.
    """
    found = [cache.find(**scoring.key(suite)) for suite in suites]
    if any(scores is not None and enough(scores) for scores in found):
        return [scores for scores in found if scores is not None]
    log = load_settings().logs_folder / f"scoring-{scoring.artifact_digest[:12]}.log"
    with ScoringProcess(scoring.job, log, scoring.api_key) as process:
        for number, suite in enumerate(suites):
            scores = found[number]
            if scores is None:
                scores = found[number] = _score(
                    scoring, suite, order or _shuffled, cache, process, progress or _quiet, stop
                )
                if enough(scores):
                    break
    return [scores for scores in found if scores is not None]


def _score(
    scoring: LmEvalScorer,
    suite: Suite,
    order: Order,
    cache: ScoreCache,
    process: ScoringProcess,
    progress: Progress,
    stop: Stop | None,
) -> SuiteScores:
    key = scoring.key(suite)
    with open_partial_scores(cache.partial_scores_path(**key)) as journal:
        # Another process may have finished it while this one waited for the journal.
        if (known := cache.find(**key)) is not None:
            journal.delete()
            return known
        ids = order(suite, journal.items)
        so_far = scores_before_gap(ids, journal.items)
        settled = bool(stop and so_far and stop(suite, so_far))
        if not settled:
            progress(suite.name, len(journal.items), suite.items)
            process.make_ready()
            journal.start_clock()
        while not settled and (missing := [id for id in ids if id not in journal.items][:CHUNK_ITEMS]):
            done = len(journal.items)

            def tell(share: float, done: int = done, chunk: int = len(missing)) -> None:
                progress(suite.name, done + int(share * chunk), suite.items)

            journal.add(process.score(suite, tuple(missing), tell))
            progress(suite.name, len(journal.items), suite.items)
            ids = order(suite, journal.items)
            settled = bool(stop and stop(suite, scores_before_gap(ids, journal.items)))
        return finish_suite(cache, journal, suite, key, scores_before_gap(ids, journal.items), scoring.conditions)


def _shuffled(suite: Suite, _: Mapping[str, ItemScore]) -> list[str]:
    """Suites are sorted by topic: a part of one must be a fair sample of it."""
    from tasks.evaluate.verdict.sequential.order import shuffled  # numpy, which a reader of scores need not import

    return [suite.ids[place] for place in shuffled(suite.ids)]


def _quiet(suite: str, done: int, total: int) -> None:
    """For those who want no progress."""


def local_scorer_name(batch_size: int | None = None) -> str:
    """What scores on this machine, with all that may move a score; equal names are comparable."""
    packages = " ".join(f"{package} {version(package)}" for package in ("lm-eval", *PACKAGES))
    batch = f"batch {batch_size or BATCH_SIZE} of {CHUNK_ITEMS}"
    return f"{packages} {scoring_dtype()} {device_name()} {batch} 0-shot plain-text"


def remote_scorer_name(engine: str, batch_size: int | None = None) -> str:
    """The same for what is scored through an engine, given as its name, version and flags."""
    how = f"local-completions {engine} batch {batch_size or BATCH_SIZE} 0-shot plain-text"
    return f"lm-eval {version('lm-eval')} {how}"


def scoring_device() -> Literal["cpu", "cuda"]:
    """Where models are scored: on the GPU when there is one, it is not hidden, and torch is built for it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    if hidden or not Path("/proc/driver/nvidia/version").exists():
        return "cpu"
    torch = find_spec("torch")
    assert torch and torch.submodule_search_locations
    # torch's own note of its build: importing torch to ask takes seconds, in every process that plans.
    built_for = runpy.run_path(str(Path(torch.submodule_search_locations[0]) / "version.py"))["cuda"]
    return "cuda" if built_for else "cpu"


def scoring_dtype() -> str:
    """`auto` (the artifact's own) where bfloat16 is fast, else float32."""
    return "auto" if scoring_device() == "cuda" or has_fast_bf16() else "float32"


def device_name() -> str:
    """`cpu`, or the GPU models that this machine has."""
    if scoring_device() == "cpu":
        return "cpu"
    told = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    models = {line.split(":", 1)[1].strip() for text in told for line in text.splitlines() if line.startswith("Model:")}
    return "cuda " + " ".join(sorted(models))
