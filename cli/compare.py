"""`compare`: two models on suites, with no stack, no registry and no flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.columns import below, number
from cli.output import INTERRUPTED, JsonOption, bars, note, say, show_json, table
from tasks.evaluate.verdict.outcomes import OUTCOMES
from weighbridge.errors import OptionInvalid, SuiteUnknown
from weighbridge.terminal import styled

if TYPE_CHECKING:
    from rich.progress import TaskID

    from tasks.evaluate.comparison import Comparison
    from tasks.evaluate.verdict.early_stopping import InterimEstimate
    from tasks.evaluate.verdict.verdict import SuiteVerdict


ModelArgument = typer.Argument(
    metavar="MODEL", help="A folder, file:///…, store://line/digest, or http://host:port[#model]."
)


def compare(
    candidate: Annotated[str, ModelArgument],
    production: Annotated[str, ModelArgument],
    suite: Annotated[list[str], typer.Option(help="A suite's name or file; may be given again.")],
    margin: Annotated[float, typer.Option(help="The largest loss that still counts as no worse.")] = 0.02,
    confidence: Annotated[float, typer.Option(help="One-sided, of `non_inferior`.")] = 0.95,
    noise_floor: Annotated[
        bool,
        typer.Option("--noise-floor", help="Score production twice, and report the flips between."),
    ] = False,
    all_items: Annotated[
        bool, typer.Option("--all-items", help="Score every item, even if the verdict is settled earlier.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page here.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Drop earlier scores of the two, and score again.")] = False,
    candidate_key_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable with the candidate endpoint's key.")
    ] = None,
    production_key_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable with production's key.")
    ] = None,
    engines_may_differ: Annotated[
        bool,
        typer.Option(
            "--engines-may-differ",
            help="Allow different engines; the verdict is of both.",
        ),
    ] = False,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the tokenizer; general suites need it for an endpoint.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Concurrent requests to an endpoint.")] = 8,
    retry_seconds: Annotated[
        float, typer.Option("--patience", min=0, help="Seconds for which a failing request is retried.")
    ] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Say whether one model is no worse than another, suite by suite.

    Scores are kept: comparing again runs no model. Exit status 0 when no worse, 20 regression, 21 inconclusive,
    22 invalid.
    """
    if not as_json:
        # Before imports that take seconds.
        note("compare", f"{candidate} with {production}, on {', '.join(suite)}.")
    from tasks.evaluate.compare import compare as compare_models
    from tasks.evaluate.compare_inputs import resolve_model, resolve_suite
    from tasks.evaluate.comparison import Options
    from weighbridge.settings import load_settings

    options = Options(
        margin=_within(margin, "--margin", 0, 1),
        confidence=_within(confidence, "--confidence", 0.5, 1),
        noise_floor=noise_floor,
        all_items=all_items,
        fresh=fresh,
        may_differ=frozenset({"engine", "flags", "scorer"} if engines_may_differ else ()),
        concurrency=concurrency,
        retry_seconds=retry_seconds,
        tokenizer=tokenizer,
    )
    suites = {resolved.name: resolved for resolved in map(resolve_suite, suite)}
    if len(suites) < len(suite):
        raise SuiteUnknown("A suite is named twice.", "Name each once; files of the same name must be renamed.")
    settings = load_settings()
    models = (
        resolve_model(candidate, settings, candidate_key_env),
        resolve_model(production, settings, production_key_env),
    )
    progress = _Progress()
    try:
        with progress:
            comparison = compare_models(*models, list(suites.values()), options, progress, settings)
    except KeyboardInterrupt:
        note("compare", "Stopped. Scores so far are kept: the same command continues from there.")
        raise typer.Exit(INTERRUPTED) from None
    if report is not None:
        _write_report(comparison, report)
    failure = OUTCOMES[comparison.verdict.outcome].error
    if as_json:
        show_json(as_row(comparison, report))
    else:
        _show(comparison)
        if report is not None:
            say(f"Report: {report}")
    if failure:
        raise typer.Exit(failure.exit_status)


def as_row(comparison: Comparison, report: Path | None) -> dict[str, Any]:
    """Convert a comparison for `--json`."""
    verdict, error = comparison.verdict, OUTCOMES[comparison.verdict.outcome].error
    seconds = {
        who: sum(scores.seconds for scores in all_scores)
        for who, all_scores in (
            ("candidate", comparison.candidate_scores),
            ("production", comparison.production_scores),
        )
    }
    return {
        "verdict": verdict.outcome,
        "sentence": verdict.sentence,
        "error": error.__name__ if error else None,
        "candidate": {"name": comparison.candidate.label, "digest": comparison.candidate.digest},
        "production": {"name": comparison.production.label, "digest": comparison.production.digest},
        "suites": [suite.model_dump(mode="json") for suite in verdict.suites],
        "scoring_seconds": seconds,
        "report": str(report) if report else None,
    }


class _Progress:
    """Progress on standard error: bars in a terminal, else a summary line for each suite at the end."""

    def __init__(self) -> None:
        self._bars = bars("running")
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._running: dict[str, str] = {}

    def __enter__(self) -> _Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        if self._bars.disable:
            for name, text in self._running.items():
                note(name.split("/")[-1][:10], text)

    def progress(self, label: str, suite: str, done: int, total: int) -> None:
        """Show how many items of a suite are scored."""
        key = (label, suite)
        if key not in self._tasks:
            name = f"{label} {suite}"
            # Items scored by an earlier command do not count for the speed.
            self._tasks[key] = self._bars.add_task(name, total=total, completed=done, running="")
        self._bars.update(self._tasks[key], completed=done)

    def running(self, suite: str, estimate: InterimEstimate, margin: float) -> None:
        """Show the interim estimate of a suite."""
        text = (
            f"{estimate.estimate:+.1%} ({estimate.low:+.1%} to {estimate.high:+.1%}), margin {margin:.1%}, "
            f"{'settled after' if estimate.settled else 'so far'} {estimate.items} items"
        )
        self._running[suite] = text
        task = self._tasks.get(("candidate", suite))
        if task is not None:
            self._bars.update(task, running=text)

    def say(self, text: str) -> None:
        """Print a message above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)


def _show(comparison: Comparison) -> None:
    numbers = ("candidate (%)", "production (%)", "difference (%)", "interval (%)")
    rows = table("suite", "verdict", *map(number, numbers), below("flips"), below("items"))
    for suite in comparison.verdict.suites:
        rows.add_row(
            suite.suite,
            styled(suite.outcome, OUTCOMES[suite.outcome].terminal_colour),
            f"{100 * suite.candidate_mean:.1f}",
            "–" if suite.production_mean is None else f"{100 * suite.production_mean:.1f}",
            "–" if suite.estimate is None else f"{100 * suite.estimate:+.1f}",
            "–" if suite.low is None or suite.high is None else f"{100 * suite.low:+.1f} to {100 * suite.high:+.1f}",
            f"+{suite.gained} −{suite.lost}",
            f"{suite.items}" if suite.suite_items is None else f"{suite.items} of {suite.suite_items}",
        )
    say(rows)
    for suite in comparison.verdict.suites:
        for text in _remarks(suite):
            say(f"{suite.suite}: {text}")
    say(comparison.verdict.sentence)


def _remarks(suite: SuiteVerdict) -> list[str]:
    remarks = [f"changed: {change}." for change in suite.changed]
    if suite.noise_flips_share is not None:
        remarks.append(f"noise floor: {suite.noise_flips_share:.1%} of items flip when production is scored twice.")
    return [*remarks, suite.note] if suite.note else remarks


def _write_report(comparison: Comparison, path: Path) -> None:
    from tasks.propose.compared import make_comparison_report

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make_comparison_report(comparison))
    except OSError as error:
        raise OptionInvalid(f"The report cannot be written: {error}.", "Name another file.", str(path)) from None


def _within(value: float, option: str, low: float, high: float) -> float:
    if not low < value < high:
        raise OptionInvalid(f"{option} {value:g} is not between {low:g} and {high:g}.", "A share: 0.02 is two points.")
    return value


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(compare)
