"""Take a line's newest release from its source to candidates that await approval."""

from __future__ import annotations

from prefect import flow

from tasks.announce import announced
from tasks.evaluate.step import drift_check, forecast, weigh
from tasks.fit.step import fit, refit
from tasks.propose.release import Release, require_candidate
from tasks.propose.step import propose
from tasks.quantize.step import quantize_scheme
from tasks.serve.installation import ServingInstallation
from tasks.serve.step import keep_reference, serving_scorer
from tasks.source.provider import with_source
from tasks.source.step import admit, as_released, download, pin, what_changed
from tasks.steps import named_failures, side_by_side
from weighbridge.line import Line


@flow(name="release", flow_run_name="release-{line}", persist_result=True, result_serializer="json")
@announced("release")
@named_failures
def release(
    line: str, revision: str | None = None, schemes: list[str] | None = None, source: str | None = None
) -> Release:
    """Take a line's newest release from its source to candidates that await approval.

    Args:
        line: name of a file in `lines/`.
        revision: branch, tag or commit; the line's own branch by default.
        schemes: only these schemes, also others than the line's; `bf16` is the release as published.
        source: another repository than the line's, such as a successor that the watch found: `hf://org/model`.

    Raises:
        WeighbridgeError: the failure's name; `VerdictRegression` where no candidate passes.
    """
    installation = ServingInstallation.load()
    configured = Line.load(line)
    configured = configured.model_copy(update={"schemes": schemes}) if schemes else configured
    configured = with_source(configured, source) if source else configured
    pinned = pin(installation, configured, revision)
    if revision is None and source is None:
        pinned = as_released(installation, configured, pinned)
    admit(installation, pinned, configured)
    report = fit(installation, pinned, configured)
    production, scorer = installation.production_artifact(line), serving_scorer(installation, configured)
    forecast(installation, configured, production, scorer)
    weights = download(installation, pinned, line)
    quantized = [
        quantize_scheme(
            installation,
            configured,
            weights,
            scheme,
            lambda artifact: drift_check(installation, artifact, weights, configured),
        )
        for scheme in report.schemes
    ]
    report = refit(installation, report, [candidate.artifact for candidate in quantized], configured)
    quantized = [candidate for candidate in quantized if candidate.artifact.scheme in report.schemes]
    changed = what_changed(installation, production, weights)
    shared = {
        "installation": installation,
        "line": configured,
        "production": production,
        "weights": weights,
        "scorer": scorer,
    }
    weighed = side_by_side(
        installation.settings,
        weigh,
        [{**shared, "artifact": candidate.artifact, "drift": candidate.drift} for candidate in quantized],
    )
    weighed = [result.with_attempts(candidate.attempts) for result, candidate in zip(weighed, quantized, strict=True)]
    for candidate in weighed:
        if candidate.verdict.passes and configured.engine.parity != "off":
            keep_reference(installation, configured, candidate.artifact)
    return require_candidate(propose(installation, configured, pinned, report, weighed, changed))
