"""`compare`: two models on suites, with no stack, no registry and no flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from cli.output import INTERRUPTED, JsonOption, bars, note, say, show_json, table
from tasks.evaluate.verdict.outcomes import OUTCOMES
from weighbridge.errors import OptionInvalid, SuiteUnknown

if TYPE_CHECKING:
    from rich.progress import TaskID

    from tasks.evaluate.compare import Comparison
    from tasks.evaluate.verdict.early_stopping import InterimEstimate
    from tasks.evaluate.verdict.verdict import SuiteVerdict


ModelArgument = typer.Argument(metavar="MODEL", help="A folder, store://line/digest, or http://host:port[/v1][#model].")


def compare(
    candidate: Annotated[str, ModelArgument],
    production: Annotated[str, ModelArgument],
    suite: Annotated[list[str], typer.Option(help="A suite's name or file; may be given again.")],
    margin: Annotated[float, typer.Option(help="The largest loss that still counts as no worse.")] = 0.02,
    confidence: Annotated[float, typer.Option(help="One-sided, of `non_inferior`.")] = 0.95,
    noise_floor: Annotated[
        bool, typer.Option("--noise-floor", help="Score production twice, to see how much flips by itself.")
    ] = False,
    all_items: Annotated[
        bool, typer.Option("--all-items", help="Score every item, also when the question is settled earlier.")
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
        bool, typer.Option("--engines-may-differ", help="Compare although two engines answer; the verdict is of both.")
    ] = False,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the tokenizer, for general suites of an endpoint without one.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Questions asked of an endpoint at once.")] = 8,
    patience: Annotated[float, typer.Option(min=0, help="Seconds that a failing request is tried again.")] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Say whether one model is no worse than another, suite by suite.

    Scores are kept: comparing again takes no model. Exit status 0 when no worse, 20 regression, 21 inconclusive,
    22 invalid.
    """
    from tasks.evaluate.compare import Options
    from tasks.evaluate.compare import compare as compare_sides
    from tasks.evaluate.compare_inputs import resolve_model, resolve_suite
    from weighbridge.settings import load_settings

    options = Options(
        margin=_within(margin, "--margin", 0, 1),
        confidence=_within(confidence, "--confidence", 0.5, 1),
        noise_floor=noise_floor,
        all_items=all_items,
        fresh=fresh,
        may_differ=frozenset({"engine", "flags", "scorer"} if engines_may_differ else ()),
        concurrency=concurrency,
        retry_seconds=patience,
        tokenizer=tokenizer,
    )
    suites = {found.name: found for found in map(resolve_suite, suite)}
    if len(suites) < len(suite):
        raise SuiteUnknown("A suite is named twice.", "Name each once; files of the same name must be renamed.")
    settings = load_settings()
    ours = resolve_model(candidate, settings, candidate_key_env)
    theirs = resolve_model(production, settings, production_key_env)
    watch = _Watch()
    try:
        with watch:
            comparison = compare_sides(ours, theirs, list(suites.values()), options, watch, settings)
    except KeyboardInterrupt:
        note("compare", "Stopped. What was scored is kept: the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
    if report is not None:
        _write_report(comparison, report)
    failure = OUTCOMES[comparison.verdict.outcome].error
    if as_json:
        show_json(as_row(comparison, report))
    else:
        _show(comparison)
        if report is not None:
            say(f"Report: {escape(str(report))}")
    if failure:
        raise typer.Exit(failure.exit_status)


def as_row(comparison: Comparison, report: Path | None) -> dict[str, Any]:
    """A comparison for `--json`."""
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


class _Watch:
    """Progress on standard error: bars for people, a line now and then where nobody watches a terminal."""

    def __init__(self) -> None:
        self._bars = bars("running")
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._running: dict[str, str] = {}

    def __enter__(self) -> _Watch:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        if self._bars.disable:
            for name, text in self._running.items():
                note(name.split("/")[-1][:10], text)

    def progress(self, who: str, suite: str, done: int, total: int) -> None:
        """So many items of a suite are scored."""
        key = (who, suite)
        if key not in self._tasks:
            name = f"{who} {suite}"
            # What was kept from before says nothing of how fast it goes.
            self._tasks[key] = self._bars.add_task(name, total=total, completed=done, running="")
        self._bars.update(self._tasks[key], completed=done)

    def running(self, suite: str, seen: InterimEstimate, margin: float) -> None:
        """What a suite's items show so far."""
        text = (
            f"{seen.estimate:+.1%} ({seen.low:+.1%} to {seen.high:+.1%}), margin {margin:.1%}, "
            f"{'settled after' if seen.settled else 'so far'} {seen.items} items"
        )
        self._running[suite] = text
        task = self._tasks.get(("candidate", suite))
        if task is not None:
            self._bars.update(task, running=text)

    def say(self, text: str) -> None:
        """Something that a reader should know now."""
        self._bars.console.print(text, highlight=False, markup=False)


def _show(comparison: Comparison) -> None:
    shown = table("suite", "verdict", "candidate", "production", "difference", "interval", "flips", "items")
    for one in comparison.verdict.suites:
        shown.add_row(
            escape(one.suite),
            f"[{OUTCOMES[one.outcome].terminal_colour}]{one.outcome}[/]",
            f"{one.candidate_mean:.1%}",
            "–" if one.production_mean is None else f"{one.production_mean:.1%}",
            "–" if one.estimate is None else f"{one.estimate:+.1%}",
            "–" if one.low is None or one.high is None else f"{one.low:+.1%} to {one.high:+.1%}",
            f"+{one.gained} −{one.lost}",
            f"{one.items}" if one.suite_items is None else f"{one.items} of {one.suite_items}",
        )
    say(shown)
    for one in comparison.verdict.suites:
        for text in _remarks(one):
            say(escape(f"{one.suite}: {text}"))
    say(escape(comparison.verdict.sentence))


def _remarks(suite: SuiteVerdict) -> list[str]:
    remarks = [f"changed: {change}." for change in suite.changed]
    if suite.noise_flips_share is not None:
        remarks.append(f"noise floor: production alone flips {suite.noise_flips_share:.1%} when scored twice.")
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
    """Make the command known."""
    app.command()(compare)
