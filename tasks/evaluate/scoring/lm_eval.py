"""lm-eval scoring: scores on general suites, from the cache or from one child process that runs lm-eval."""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from registry.store import stamps_of
from tasks.evaluate.scoring.lm_eval_child import Job, RemoteModel
from tasks.evaluate.scoring.lm_eval_process import ScoringProcess
from tasks.evaluate.scoring.model_files import ModelFiles, read_model_files
from tasks.evaluate.scoring.partial_scores import finish_suite, open_partial_scores, scores_before_gap
from tasks.evaluate.scoring.scores import Conditions, ItemScore, ScoreCache, SuiteScores
from tasks.evaluate.suites.suite import Suite
from weighbridge.errors import ScoringFailed
from weighbridge.processor import has_fast_bf16

BATCH_SIZE = 8
"""Larger batches gain nothing on a CPU (measured: 240 tokens a CPU-second at 8 × 12 as at 64 × 12 tokens)."""
NOISE_BATCH_SIZE = BATCH_SIZE // 2 + 1
"""For production's second scoring: sums are rounded in another order."""
CHUNK_ITEMS = 64
"""Items scored and kept together: the most that a killed process loses."""
PACKAGES = ("transformers", "torch", "compressed-tensors")

Progress = Callable[[str, int, int], None]
Order = Callable[[Suite, Mapping[str, ItemScore]], Sequence[str]]
Stop = Callable[[Suite, list[ItemScore]], bool]


class LmEvalScorer:
    """Scores one model on general suites with lm-eval.

    Args:
        artifact_digest: the model's identity in the score cache.
        model: the folder of its files, or an endpoint that returns prompt log-probabilities.
        engine: name and version of the endpoint's engine.
        model_files: digests of the model's small files; read from its folder by default.
        batch_size: items at once. Another size changes scores only by rounding, which is the noise floor.
        api_key: of the endpoint.
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
        is_remote = isinstance(model, RemoteModel)
        self.engine = engine if is_remote else " ".join(f"{package} {version(package)}" for package in PACKAGES)
        self._model_files = model_files
        self._stamps = {} if isinstance(model, RemoteModel) else stamps_of(model)

    def require_unchanged(self) -> None:
        """Make sure that no file of the model was written to since this scorer was made.

        Raises:
            ScoringFailed: One was; scores of it belong to nothing that has a digest.
        """
        if not isinstance(self.model, RemoteModel) and stamps_of(self.model) != self._stamps:
            raise ScoringFailed(
                "A file of the model was altered while it was scored.",
                "Find out who writes there; `weighbridge store verify` checks an artifact. Then run it again.",
                where=str(self.model),
            )

    @property
    def name(self) -> str:
        """The scorer's name in the score cache."""
        if isinstance(self.model, RemoteModel):
            return remote_scorer_name(self.engine, self.batch_size)
        return local_scorer_name(self.batch_size)

    @property
    def conditions(self) -> Conditions:
        """Conditions of the scoring, for the comparability check."""
        model_files = self._model_files
        if model_files is None:
            model_files = read_model_files(self.model) if isinstance(self.model, Path) else ModelFiles()
        flags = "" if isinstance(self.model, RemoteModel) else f"{scoring_dtype()} {device_name()}"
        return Conditions(
            scorer=f"lm-eval {version('lm-eval')}",
            parsing="plain text, the harness's metric",
            engine=self.engine,
            flags=flags,
            batch=str(self.batch_size),
            **model_files.model_dump(),
        )

    def key(self, suite: Suite) -> dict[str, str]:
        """Key of the scores on a suite in the score cache."""
        return {"artifact_digest": self.artifact_digest, "suite_digest": suite.digest, "scorer": self.name}

    @property
    def job(self) -> Job:
        """The model and its settings, as the child process takes them."""
        model = self.model if isinstance(self.model, RemoteModel) else self.model.resolve()
        return Job(model=model, device=scoring_device(), dtype=scoring_dtype(), batch_size=self.batch_size)


def score_by_lm_eval(
    scorer: LmEvalScorer,
    suites: Sequence[Suite],
    cache: ScoreCache,
    logs_folder: Path,
    *,
    progress: Progress | None = None,
    enough: Callable[[SuiteScores], bool] = lambda _: False,
    order: Order | None = None,
    stop: Stop | None = None,
) -> list[SuiteScores]:
    """Score a model on general suites.

    Args:
        scorer: the model and its settings.
        suites: general suites, in the order of the result.
        cache: holds earlier scores. A suite is added when it is finished; until then each chunk is kept beside it.
        logs_folder: folder of the child process's log.
        progress: called with a suite's name, the number of scored items and of all items.
        enough: called after each suite; True skips the remaining suites.
        order: returns a suite's ids in the order in which they are scored, given the scores so far; a random but
            fixed order by default.
        stop: called after each chunk with the suite and its scores so far, in the order of scoring; True ends the
            suite early.

    Raises:
        ScoringFailed: the child process died, hung or returned scores that cannot be right. Scores so far are kept.
    """
    found = [cache.find(**scorer.key(suite)) for suite in suites]
    if any(scores is not None and enough(scores) for scores in found):
        return [scores for scores in found if scores is not None]
    log = logs_folder / f"scoring-{scorer.artifact_digest[:12]}.log"
    with ScoringProcess(scorer.job, log, scorer.api_key) as process:
        for number, suite in enumerate(suites):
            scores = found[number]
            if scores is None:
                scores = found[number] = _score_suite(
                    scorer, suite, order or _shuffled, cache, process, progress or _no_progress, stop
                )
                if enough(scores):
                    break
    return [scores for scores in found if scores is not None]


def _score_suite(
    scorer: LmEvalScorer,
    suite: Suite,
    order: Order,
    cache: ScoreCache,
    process: ScoringProcess,
    progress: Progress,
    stop: Stop | None,
) -> SuiteScores:
    key = scorer.key(suite)
    with open_partial_scores(cache.partial_scores_path(**key)) as partial_scores:
        # Another process may have finished the suite while this one waited for the lock.
        if (cached := cache.find(**key)) is not None:
            partial_scores.delete()
            return cached
        ids = order(suite, partial_scores.items)
        so_far = scores_before_gap(ids, partial_scores.items)
        is_decided = bool(stop and so_far and stop(suite, so_far))
        if not is_decided:
            progress(suite.name, len(partial_scores.items), suite.items)
            process.make_ready()
            partial_scores.start_clock()
        while not is_decided and (missing := [id for id in ids if id not in partial_scores.items][:CHUNK_ITEMS]):
            done = len(partial_scores.items)

            def report(share: float, done: int = done, chunk: int = len(missing)) -> None:
                progress(suite.name, done + int(share * chunk), suite.items)

            scored = process.score(suite, tuple(missing), report)
            scorer.require_unchanged()
            partial_scores.add(scored)
            progress(suite.name, len(partial_scores.items), suite.items)
            ids = order(suite, partial_scores.items)
            is_decided = bool(stop and stop(suite, scores_before_gap(ids, partial_scores.items)))
        items = scores_before_gap(ids, partial_scores.items)
        return finish_suite(cache, partial_scores, suite, key, items, scorer.conditions)


def _shuffled(suite: Suite, _: Mapping[str, ItemScore]) -> list[str]:
    """A fixed random order: suites are sorted by topic, and a part of one must be a fair sample of it."""
    from tasks.evaluate.verdict.sequential.order import shuffled  # numpy, which a reader of scores need not import

    return [suite.ids[place] for place in shuffled(suite.ids)]


def _no_progress(suite: str, done: int, total: int) -> None:
    """Ignore progress."""


def local_scorer_name(batch_size: int | None = None) -> str:
    """Name of the scorer on this machine, with everything that may change a score; equal names are comparable."""
    packages = " ".join(f"{package} {version(package)}" for package in ("lm-eval", *PACKAGES))
    batch = f"batch {batch_size or BATCH_SIZE} of {CHUNK_ITEMS}"
    return f"{packages} {scoring_dtype()} {device_name()} {batch} 0-shot plain-text"


def remote_scorer_name(engine: str, batch_size: int | None = None) -> str:
    """Name of the scorer through an engine, given as its name, version and flags."""
    settings = f"local-completions {engine} batch {batch_size or BATCH_SIZE} 0-shot plain-text own-ids"
    return f"lm-eval {version('lm-eval')} {settings}"


def scoring_device() -> Literal["cpu", "cuda"]:
    """Return the device for scoring: the GPU if there is one, it is not hidden, and torch is built for it."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    if is_hidden or not Path("/proc/driver/nvidia/version").exists():
        return "cpu"
    torch = find_spec("torch")
    assert torch and torch.submodule_search_locations
    # torch's version file: importing torch takes seconds, in every process that plans.
    built_for = runpy.run_path(str(Path(torch.submodule_search_locations[0]) / "version.py"))["cuda"]
    return "cuda" if built_for else "cpu"


def scoring_dtype() -> str:
    """Return `auto` (the artifact's own dtype) if bfloat16 is fast, else float32."""
    return "auto" if scoring_device() == "cuda" or has_fast_bf16() else "float32"


def device_name() -> str:
    """Return `cpu`, or the GPU models of this machine."""
    if scoring_device() == "cpu":
        return "cpu"
    texts = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    models = {
        line.split(":", 1)[1].strip() for text in texts for line in text.splitlines() if line.startswith("Model:")
    }
    return "cuda " + " ".join(sorted(models))
