"""Take a line's newest release from its source to candidates that await approval."""

from __future__ import annotations

from prefect import flow

from registry.models import Registry
from registry.store import Artifact, Store
from tasks.evaluate.step import ask, draw_verdict, may_pass, score
from tasks.fit.step import fit, refit
from tasks.propose.propose import Release, Weighed
from tasks.propose.step import propose
from tasks.quantize.step import quantize
from tasks.serve.step import describe_engine, launch_for_trial
from tasks.source.hub import pin
from tasks.source.step import admit, download
from weighbridge.errors import VerdictInconclusive, VerdictInvalid, VerdictRegression
from weighbridge.line import Line

FAILURES = {
    "regression": VerdictRegression,
    "invalid": VerdictInvalid,
    "inconclusive": VerdictInconclusive,
}


@flow(name="release", flow_run_name="release-{line}", persist_result=True, result_serializer="json")
def release(line: str, revision: str | None = None, schemes: list[str] | None = None) -> Release:
    """Take a line's newest release from its source to candidates that await approval.

    Args:
        line: a file in `lines/`.
        revision: branch, tag or commit; the line's own branch by default.
        schemes: only these of the line's schemes, or others; `bf16` is the release as published.

    Raises:
        WeighbridgeError: named by what went wrong; `VerdictRegression` when no candidate passes.
    """
    plan = Line.load(line)
    if schemes:
        plan = plan.model_copy(update={"schemes": schemes})
    source = pin(plan, revision)
    admit(source, plan)
    report = fit(source, plan)
    weights = download(source, line)
    artifacts = [quantize(weights, scheme) for scheme in report.schemes]
    report = refit(report, artifacts, plan)
    artifacts = [artifact for artifact in artifacts if artifact.scheme in report.schemes]
    production = current(line)
    weighed = [weigh(plan, artifact, production, weights) for artifact in artifacts]
    return conclude(propose(plan, source, report, weighed))


def current(line: str) -> Artifact | None:
    """What the registry says is in production."""
    serving = Registry().production(line)
    return Store().get(line, serving.digest) if serving else None


def weigh(plan: Line, artifact: Artifact, production: Artifact | None, weights: Artifact) -> Weighed:
    """Weigh a candidate against production; before there is any, against the release as published.

    A candidate that one suite already fails is spared the rest, and the engine.
    """
    reference = production or weights
    first_of_line = production is None and artifact.digest == weights.digest
    engine = describe_engine(plan)
    theirs = score(reference, plan)
    ours = theirs if artifact == reference else score(artifact, plan, theirs)
    if may_pass(plan, ours, theirs):
        asked = ask(reference, plan, engine, launch_for_trial)
        theirs = theirs + asked
        ours = ours + (asked if artifact == reference else ask(artifact, plan, engine, launch_for_trial))
    theirs_or_none = None if first_of_line else theirs
    against = "production" if production else "the release as published"
    digest = None if first_of_line else reference.digest
    verdict = draw_verdict(artifact, plan, ours, theirs_or_none, digest, against)
    return Weighed(
        artifact=artifact,
        verdict=verdict,
        candidate_scores=tuple(ours),
        production_scores=tuple(theirs_or_none or ()),
    )


def conclude(release: Release) -> Release:
    """A release ends well when at least one candidate may be approved.

    Raises:
        VerdictRegression, VerdictInvalid, VerdictInconclusive: none may; the gravest names the failure.
    """
    if any(candidate.version is not None for candidate in release.candidates):
        return release
    outcomes = [candidate.outcome for candidate in release.candidates]
    kind = next(kind for kind in FAILURES if kind in outcomes)
    raise FAILURES[kind](
        " ".join(f"[{one.scheme} {one.digest[:12]}] {one.sentence}" for one in release.candidates),
        f"Nothing was proposed and production is untouched; the report shows the items: {release.candidates[0].report}",
        where=f"{release.line} at {release.commit[:12]}",
    )
