"""Take a line's newest release from its source to candidates that await approval."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from prefect import flow

from registry.models.registry import Registry
from registry.store import Artifact, Store
from tasks.evaluate.drift import DriftReport
from tasks.evaluate.scoring.serving_scorer import Trial
from tasks.evaluate.step import (
    ask,
    compare_answers,
    draw_verdict,
    forecast,
    look,
    noise_floor,
    score,
    suites_of,
    weighing_conditions,
)
from tasks.evaluate.verdict.judge_suites import may_pass
from tasks.fit.step import fit, refit
from tasks.propose.dossier import Rung, Weighed
from tasks.propose.propose import Release
from tasks.propose.step import propose
from tasks.quantize.step import methods_of, quantize
from tasks.serve.step import engine_on_trial, keep_reference
from tasks.source.hub import pin
from tasks.source.step import admit, download, what_changed
from tasks.steps import run_logger, side_by_side, step
from weighbridge.errors import (
    CalibrationInvalid,
    MemoryShort,
    QuantizationFailed,
    QuantizationInterrupted,
    QuantizationUncovered,
    VerdictInconclusive,
    VerdictInvalid,
    VerdictRegression,
)
from weighbridge.line import Line

FAILURES = {
    "regression": VerdictRegression,
    "invalid": VerdictInvalid,
    "inconclusive": VerdictInconclusive,
}


@flow(name="release", flow_run_name="release-{line}", persist_result=True, result_serializer="json")
def release(
    line: str, revision: str | None = None, schemes: list[str] | None = None, source: str | None = None
) -> Release:
    """Take a line's newest release from its source to candidates that await approval.

    Args:
        line: a file in `lines/`.
        revision: branch, tag or commit; the line's own branch by default.
        schemes: only these of the line's schemes, or others; `bf16` is the release as published.
        source: another repository than the line's, such as a successor that the watch found: `hf://org/model`.

    Raises:
        WeighbridgeError: named by what went wrong; `VerdictRegression` when no candidate passes.
    """
    configured = Line.load(line)
    if schemes:
        configured = configured.model_copy(update={"schemes": schemes})
    if source:
        configured = configured.model_copy(update={"source": source})
    pinned = pin(configured, revision)
    admit(pinned, configured)
    report = fit(pinned, configured)
    production, trial = current(line), engine_on_trial(configured)
    forecast(configured, production, trial)
    weights = download(pinned, line)
    climbed = [climb(configured, weights, scheme) for scheme in report.schemes]
    report = refit(report, [one.artifact for one in climbed], configured)
    climbed = [one for one in climbed if one.artifact.scheme in report.schemes]
    changed = what_changed(production, weights)
    shared = {"line": configured, "production": production, "weights": weights, "trial": trial}
    weighed = side_by_side(weigh, [{**shared, "artifact": one.artifact, "seen": one.seen} for one in climbed])
    weighed = [one.model_copy(update={"rungs": made.rungs}) for one, made in zip(weighed, climbed, strict=True)]
    for one in weighed:
        if one.verdict.passes and configured.engine.parity != "off":
            keep_reference(configured, one.artifact)
    return conclude(propose(configured, pinned, report, weighed, changed))


def current(line: str) -> Artifact | None:
    """What the registry says is in production."""
    serving = Registry().production(line)
    return Store().get(line, serving.digest) if serving else None


class Climbed(NamedTuple):
    """A scheme's candidate and how it came about."""

    artifact: Artifact
    seen: DriftReport | None
    """The look at it; None for the release as published."""
    rungs: tuple[Rung, ...]


def climb(line: Line, weights: Artifact, scheme: str) -> Climbed:
    """Make a scheme's candidate: by its cheapest method, and by a costlier one while that is too far from its release.

    A method that fails is passed over where another gives a candidate; a climb that takes too long ends where it is.

    Returns:
        The nearest to the release, and every method that was tried.

    Raises:
        QuantizationFailed, QuantizationUncovered: no method gives a candidate.
    """
    began, tried = time.monotonic(), list[tuple[Artifact, DriftReport, Rung]]()
    rungs, failure = list[Rung](), None
    for method in methods_of(scheme, line):
        if rungs and time.monotonic() - began > 60 * line.quantize.minutes:
            run_logger().warning("%s: %s is not tried, for %g minutes are over", scheme, method, line.quantize.minutes)
            break
        try:
            artifact = quantize(weights, scheme, method, line.quantize)
        except QuantizationInterrupted:
            # Somebody stopped it: the next run goes on there, and no other method stands in for it.
            raise
        except (QuantizationFailed, QuantizationUncovered, CalibrationInvalid, MemoryShort) as error:
            failure = error
            rungs.append(Rung(method=method, digest="", outcome="failed", sentence=error.what))
            continue
        if artifact == weights:
            return Climbed(artifact, None, ())
        seen = look(artifact, weights, line)
        rungs.append(Rung.of(method, seen))
        tried.append((artifact, seen, rungs[-1]))
        if seen.outcome == "non_inferior":
            return Climbed(artifact, seen, tuple(rungs))
    if not tried:
        assert failure is not None
        raise failure
    artifact, seen, _ = min(tried, key=lambda one: math.inf if one[2].kl_nats is None else one[2].kl_nats)
    return Climbed(artifact, seen, tuple(rungs))


@step(
    "weigh-{artifact.scheme}-{artifact.short}",
    key=lambda line, artifact, seen, production, weights, trial: [
        artifact.digest,
        production and production.digest,
        weights.digest,
        *weighing_conditions(line, trial),
    ],
)
def weigh(
    line: Line,
    artifact: Artifact,
    seen: DriftReport | None,
    production: Artifact | None,
    weights: Artifact,
    trial: Trial,
) -> Weighed:
    """Weigh a candidate against production; before there is any, against the release as published.

    A candidate that is no longer its own release, or that one suite already fails, is spared the rest, and the engine.
    """
    reference = production or weights
    first_of_line = production is None and artifact.digest == weights.digest
    against = "production" if production else "the release as published"
    # An engine that reads GGUF only cannot be asked the release as published: its first answers are for later ones.
    askable = production is not None or trial.serves(reference)
    digest = None if first_of_line else reference.digest
    drift = {} if seen is None else {"distributions": seen}
    if seen is not None and seen.stops:
        verdict = draw_verdict(artifact, line, [], [], digest, against, drift, [], frozenset())
        return Weighed(artifact=artifact, verdict=verdict, candidate_scores=(), production_scores=(), drift=drift)
    theirs = score(reference, line, trial)
    ours = theirs if artifact == reference else score(artifact, line, trial, theirs)
    if may_pass(line, ours, theirs):
        asked = ask(reference, line, trial) if askable else []
        theirs = theirs + asked
        ours = ours + (asked if artifact == reference else ask(artifact, line, trial))
    if artifact != reference:
        drift["answers"] = compare_answers(artifact, reference, line, ours, theirs)
    again = noise_floor(reference, line, trial) if line.noise_floor and not first_of_line else []
    theirs_or_none = None if first_of_line else theirs
    alone = frozenset() if askable else frozenset(suite.name for suite in suites_of(line, "regression"))
    verdict = draw_verdict(artifact, line, ours, theirs_or_none, digest, against, drift, again, alone)
    return Weighed(
        artifact=artifact,
        verdict=verdict,
        candidate_scores=tuple(ours),
        production_scores=tuple(theirs_or_none or ()),
        drift=drift,
        scored_through=trial.sentence,
    )


def conclude(release: Release) -> Release:
    """A release ends well when at least one candidate may be approved.

    Raises:
        VerdictRegression, VerdictInvalid, VerdictInconclusive: none may; the gravest names the failure.
    """
    if any(one.version is not None or (one.passes and not release.recorded) for one in release.candidates):
        return release
    outcomes = [candidate.outcome for candidate in release.candidates]
    kind = next(kind for kind in FAILURES if kind in outcomes)
    raise FAILURES[kind](
        " ".join(f"[{one.scheme} {one.digest[:12]}] {one.sentence}" for one in release.candidates),
        f"Nothing was proposed and production is untouched; the report shows the items: {release.candidates[0].report}",
        where=f"{release.line} at {release.commit[:12]}",
    )
