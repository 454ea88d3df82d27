"""Take a line's newest release from its source to candidates that await approval."""

from __future__ import annotations

from prefect import flow

from registry.models.registry import Registry
from registry.store import Artifact, Store
from tasks.evaluate.drift import DriftReport
from tasks.evaluate.scoring.serving_scorer import ServingScorer
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
from tasks.propose.dossier import Weighed
from tasks.propose.propose import Release
from tasks.propose.step import propose
from tasks.quantize.step import quantize_scheme
from tasks.serve.installation import ServingInstallation
from tasks.serve.step import keep_reference, serving_scorer
from tasks.source.hub import pin
from tasks.source.step import admit, download, what_changed
from tasks.steps import side_by_side, step
from weighbridge.errors import (
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
    installation = ServingInstallation.load()
    pinned = pin(configured, revision)
    admit(pinned, configured)
    report = fit(pinned, configured)
    production, scorer = current(line), serving_scorer(installation, configured)
    forecast(configured, production, scorer)
    weights = download(installation, pinned, line)
    quantized = [
        quantize_scheme(installation, configured, weights, scheme, lambda artifact: look(artifact, weights, configured))
        for scheme in report.schemes
    ]
    report = refit(report, [made.artifact for made in quantized], configured)
    quantized = [made for made in quantized if made.artifact.scheme in report.schemes]
    changed = what_changed(installation, production, weights)
    shared = {"line": configured, "production": production, "weights": weights, "scorer": scorer}
    weighed = side_by_side(weigh, [{**shared, "artifact": made.artifact, "seen": made.drift} for made in quantized])
    weighed = [one.model_copy(update={"attempts": made.attempts}) for one, made in zip(weighed, quantized, strict=True)]
    for one in weighed:
        if one.verdict.passes and configured.engine.parity != "off":
            keep_reference(installation, configured, one.artifact)
    return conclude(propose(configured, pinned, report, weighed, changed))


def current(line: str) -> Artifact | None:
    """What the registry says is in production."""
    serving = Registry().production(line)
    return Store().get(line, serving.digest) if serving else None


@step(
    "weigh-{artifact.scheme}-{artifact.short}",
    key=lambda line, artifact, seen, production, weights, scorer: [
        artifact.digest,
        production and production.digest,
        weights.digest,
        *weighing_conditions(line, scorer),
    ],
)
def weigh(
    line: Line,
    artifact: Artifact,
    seen: DriftReport | None,
    production: Artifact | None,
    weights: Artifact,
    scorer: ServingScorer,
) -> Weighed:
    """Weigh a candidate against production; before there is any, against the release as published.

    A candidate that is no longer its own release, or that one suite already fails, is spared the rest, and the engine.
    """
    reference = production or weights
    first_of_line = production is None and artifact.digest == weights.digest
    against = "production" if production else "the release as published"
    # An engine that reads GGUF only cannot be asked the release as published: its first answers are for later ones.
    askable = production is not None or scorer.can_serve(reference)
    digest = None if first_of_line else reference.digest
    drift = {} if seen is None else {"distributions": seen}
    if seen is not None and seen.stops:
        verdict = draw_verdict(artifact, line, [], [], digest, against, drift, [], frozenset())
        return Weighed(artifact=artifact, verdict=verdict, candidate_scores=(), production_scores=(), drift=drift)
    theirs = score(reference, line, scorer)
    ours = theirs if artifact == reference else score(artifact, line, scorer, theirs)
    if may_pass(line, ours, theirs):
        asked = ask(reference, line, scorer) if askable else []
        theirs = theirs + asked
        ours = ours + (asked if artifact == reference else ask(artifact, line, scorer))
    if artifact != reference:
        drift["answers"] = compare_answers(artifact, reference, line, ours, theirs)
    again = noise_floor(reference, line, scorer) if line.noise_floor and not first_of_line else []
    theirs_or_none = None if first_of_line else theirs
    alone = frozenset() if askable else frozenset(suite.name for suite in suites_of(line, "regression"))
    verdict = draw_verdict(artifact, line, ours, theirs_or_none, digest, against, drift, again, alone)
    return Weighed(
        artifact=artifact,
        verdict=verdict,
        candidate_scores=tuple(ours),
        production_scores=tuple(theirs_or_none or ()),
        drift=drift,
        scored_through=scorer.sentence,
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
