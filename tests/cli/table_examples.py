"""Fixed data for every table of the commands, as wide as a user meets it; printed by the commands' own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import typer
from typer.testing import CliRunner

from cli import (
    audit,
    backup,
    candidates,
    compare,
    cost,
    fit,
    keys,
    lines,
    quantize,
    serving,
    signing_keys,
    stack,
    status_watch,
    store,
    suites,
    verdicts,
    watch,
)
from cli.flowrun import StepRow
from cli.output import say
from registry.audit import Entry
from registry.backup.production import Forecast, ServedVersion
from registry.models.examine import Examined
from registry.store import Artifact
from registry.store.cleanup import Cleaned, Removed
from registry.store.origins import Origin
from registry.watch.ledger import Decision as WatchDecision
from registry.watch.ledger import Reason
from stack.lifecycle import ServiceStatus
from stack.report import CandidateStatus, LineStatus, VersionStatus
from tasks.evaluate.suites.lint import Finding, SuiteCheck
from tasks.evaluate.suites.promptfoo import Imported
from tasks.evaluate.suites.promptfoo.import_log import Lost
from tasks.evaluate.verdict.sequential.decide import Decision
from tasks.evaluate.verdict.verdict import SuiteVerdict, Verdict
from tasks.quantize.plan.targets import Ignored
from tasks.serve.gateway import KeyRecord, Limits
from tasks.source.watch_rows import Failure, Row
from weighbridge.errors import LineInvalid
from weighbridge.line import Line

DIGEST = "12fd25f77366fa6b3b4b768ec3050bf629380bac12fd25f77366fa6b3b4b768e"
SENTENCE = "No worse than production by its margins: general/agreement −0.4 % (margin 2 %), general/choice +0.1 %."
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
"""config.json of meta-llama/Llama-3.1-8B-Instruct."""
EXAMPLES: dict[str, Callable[[Path], None]] = {}
"""What prints each table, by the table's name; it gets an empty folder."""
Show = Callable[[Path], None]


def example(show: Show) -> Show:
    """Register what prints a table."""
    EXAMPLES[show.__name__] = show
    return show


def run(command: str, add_to: Callable[[typer.Typer], None], *arguments: object) -> None:
    """Run a whole command in this process, and print what it printed."""
    app = typer.Typer()
    add_to(app)
    app.command("other")(lambda: None)
    done = CliRunner().invoke(app, [command, *map(str, arguments)])
    assert done.exception is None, done.output
    print(done.stdout, end="")


@example
def status_services(_: Path) -> None:
    """The stack, with a service that is down."""
    rows = [
        ServiceStatus(name="mlflow", state="healthy", pid=1048576, up_seconds=93784, url="http://127.0.0.1:5000"),
        ServiceStatus(name="gateway", state="unhealthy", pid=812, up_seconds=61, url="https://127.0.0.1:8080/v1"),
        ServiceStatus(name="webhook", state="down"),
    ]
    say(stack._services_table(rows))


@example
def status_lines(_: Path) -> None:
    """A rollout, and candidates that wait."""
    versions = (
        VersionStatus(
            version=11,
            digest=DIGEST,
            scheme="as-is",
            aliases=("production",),
            state="serving",
            in_rotation=True,
            weight=75,
            engine="healthy",
        ),
        VersionStatus(
            version=12,
            digest=DIGEST,
            scheme="int8-w8a16",
            state="rolling",
            in_rotation=True,
            weight=25,
            engine="refused",
        ),
        VersionStatus(version=10, digest=DIGEST, scheme="int4", aliases=("previous",), state="rolled_back"),
    )
    waiting = (
        CandidateStatus(version=21, digest=DIGEST, scheme="int4-asym"),
        CandidateStatus(version=22, digest=DIGEST, scheme="int8", as_signed=False),
    )
    lines_ = [LineStatus(line="support-de", serving=11, versions=versions, awaiting=waiting)]
    say(stack._lines_table(lines_))
    say(stack._waiting_table(lines_))


@example
def status_watch_(_: Path) -> None:
    """`status --watch` in a rollout with a mirror."""
    rates = {"requests_per_second": 118.25, "errors_per_second": 0.5, "tokens_per_second": 21480.0}
    rows = [
        status_watch.Row(
            line="support-de",
            version=version,
            digest=DIGEST,
            weight=weight,
            mirror=mirror,
            health=health,
            active=64,
            **rates,
        )
        for version, weight, mirror, health in (
            ("11", 75, False, "healthy"),
            ("12", 25, False, "unhealthy"),
            ("13", 0, True, "unknown"),
        )
    ]
    say(status_watch.render(status_watch.Snapshot(time=datetime(2026, 11, 30, 3, 0, 7, tzinfo=UTC), rows=tuple(rows))))


def entries() -> list[Entry]:
    """An approval, its request at MLflow, a click, a rollout, a key."""
    rows: list[tuple[str, str, str, int | None, str, str, str]] = [
        (
            "ada.lovelace@example.org",
            "approve",
            "support-de",
            12,
            DIGEST,
            "the report was read; two items look odd",
            "",
        ),
        ("(not signed in)", "mlflow.create_model_version", "support-de", 12, "name, source", "", "support-de"),
        ("(not signed in)", "mlflow.create_model_version", "support-de", 13, "name, source", "", "support-de"),
        ("pipeline", "mlflow.set_registered_model_tag", "support-de", None, "key, value", "", "support-de-candidates"),
        ("oz", "admit", "support-de", 12, DIGEST, "", ""),
        ("oz", "state", "support-de", 12, "rolled_back", "5.2 % errors against 0.1 % of version 11 in 300 s", ""),
        ("oz", "signing key rotated", "", None, "9f86d081884c", "yearly", ""),
        ("oz", "key limit", "", None, "each key, a minute: requests 60, tokens –", "", ""),
    ]
    return [
        Entry(
            number=998 + place,
            at=f"2026-11-30T17:2{place}:03.123456+00:00",
            who=who,
            action=action,
            line=line,
            version=version,
            what=what,
            reason=reason,
            model=model,
            previous="0" * 64,
            hash="1" * 64,
        )
        for place, (who, action, line, version, what, reason, model) in enumerate(rows)
    ]


@example
def audit_acts(_: Path) -> None:
    """`audit`."""
    say(audit.entries_table(audit.acts(entries())))


@example
def audit_all(_: Path) -> None:
    """`audit --all`."""
    say(audit.entries_table(entries()))


@example
def audit_show(_: Path) -> None:
    """`audit show 998`."""
    say(audit.entry_table(entries()[0]))


@example
def store_ls(_: Path) -> None:
    """`store ls` with a remote artifact."""
    row = {
        "line": "support-de",
        "digest": DIGEST,
        "scheme": "int8-w8a16",
        "size_bytes": 9.12 * 2**30,
        "source": f"HuggingFaceTB/SmolLM2-135M-Instruct@{DIGEST[:12]}",
        "here": True,
        "age_seconds": 250_000,
        "uses": ["production", "engine"],
        "signed": True,
    }
    say(store._artifacts_table([row, {**row, "here": False, "uses": None, "signed": None}, {**row, "signed": False}]))


@example
def store_show(_: Path) -> None:
    """`store show`: an artifact, its download and the commit."""
    versions = {"torch": "2.9.1", "transformers": "4.57.3", "weighbridge": "0.1.0"}
    say(
        store._origins_table(
            [
                Origin(
                    uri=f"store://support-de/{DIGEST}",
                    build="quantize",
                    versions=versions,
                    finished_on="2026-11-30T17:25:03Z",
                    state="in the store",
                ),
                Origin(
                    uri=f"store://support-de/{DIGEST[::-1]}",
                    build="download",
                    versions={"weighbridge": "0.1.0"},
                    finished_on="2026-11-30T17:20:00Z",
                    state="not in the store",
                ),
                Origin(uri=f"hf://HuggingFaceTB/SmolLM2-135M-Instruct@{DIGEST[:40]}", state="published"),
            ]
        )
    )


@example
def store_gc(_: Path) -> None:
    """`store gc --dry-run`."""
    removed = (
        Removed(line="support-de", name=DIGEST, scheme="int8-w8a16", size_bytes=9 * 2**30, why="nothing uses it"),
        Removed(line="support-de", name=".staging-81-3f2c", scheme="", size_bytes=10**6, why="its process has ended"),
    )
    store._show_cleaned(Cleaned(removed=removed, kept=3, dry_run=True))


@example
def fit_(folder: Path) -> None:
    """`fit` of a real configuration on two GPUs."""
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    gpus = ("--gpu", "L4", "--gpu", "RTX-PRO-6000", "--gpu", "H100-PCIe")
    run("fit", fit.add_to, folder, *gpus, "--context", 8192, "--concurrency", 16, "--engine", "vllm@0.19")


@example
def cost_(folder: Path) -> None:
    """`cost` of a real configuration."""
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    run("cost", cost.add_to, folder, "--tokens-per-day", "200M")


@example
def key_list(_: Path) -> None:
    """`key list`."""
    added, ended = datetime(2026, 11, 30, tzinfo=UTC), datetime(2026, 11, 30, 17, 25, tzinfo=UTC)
    records = {
        "support-chat-production": KeyRecord(
            sha256=DIGEST,
            added=added,
            expires=ended,
            limits=Limits(requests_per_minute=600, tokens_per_minute=2_000_000),
        ),
        "night": KeyRecord(sha256=DIGEST, added=added),
    }
    say(keys.keys_table(records))


@example
def signing_keys_list(_: Path) -> None:
    """`keys list`."""
    row = {"id": DIGEST, "state": "in use", "since": "2026-11-30T17:25:03", "until": None, "counting": 0}
    say(signing_keys.keys_table([row, {**row, "state": "revoked", "until": "2026-12-01T00:00:00", "counting": 1234}]))


@example
def verdict(_: Path) -> None:
    """`verdict` of two files."""
    folder, settled = Path("measurements/2026-11-30"), "The difference is settled after 412 items."
    rows = [
        (folder / "int8.jsonl", Decision("non_inferior", settled, 1000, 412, -0.0012, -0.0151, 0.0102)),
        (folder / "int4.jsonl", Decision("inconclusive", "50 items are too few.", 50, 50, None, None, None)),
    ]
    verdicts._show(rows)


@example
def compare_(_: Path) -> None:
    """`compare` on two suites."""
    numbers = {
        "margin": 0.02,
        "confidence": 0.95,
        "candidate_mean": 0.614,
        "production_mean": 0.618,
        "estimate": -0.004,
        "low": -0.0151,
        "high": 0.0081,
        "gained": 12,
        "lost": 16,
        "reason": "",
    }
    judged = (
        SuiteVerdict(suite="general/long_retrieval", outcome="non_inferior", items=412, suite_items=1000, **numbers),
        SuiteVerdict(suite="regression/support", outcome="inconclusive", items=66, note="Few items.", **numbers),
    )
    whole = Verdict(artifact_digest=DIGEST, production_digest=DIGEST, outcome="inconclusive", suites=judged)
    compare._show(SimpleNamespace(verdict=whole))  # type: ignore[arg-type]


@example
def watch_(_: Path) -> None:
    """`watch`: a release that waits for a person, and a line whose source is gone."""
    asks = Reason(
        code="licence",
        text="The licence changed from apache-2.0 to llama3.1, which the line does not allow.",
        weight="asks",
    )
    decision = WatchDecision(
        line="support-de",
        kind="commit",
        repo="HuggingFaceTB/SmolLM2-135M-Instruct",
        commit=DIGEST[:40],
        outcome="notify",
        reasons=(asks,),
        rules=DIGEST,
    )
    error = Failure(
        code="SourceUnknown",
        what="The Hub has no repository acme/gone.",
        where="hf://acme/gone",
        next_step="Correct `source`.",
        exit_status=3,
    )
    watch._show([Row(line="support-de", decision=decision, state="notified"), Row(line="gone", error=error)])


@example
def lines_(_: Path) -> None:
    """`lines` of this repository, and a mistake."""
    problem = LineInvalid(
        "There is no scheme 'int9'; did you mean 'int8'?", "Name one of the schemes.", where="lines/mine.yaml, schemes"
    )
    lines._show([Line.load("llama"), Line.load("smollm2")], [])
    lines._show([Line.load("llama")], [problem])


@example
def release_steps(_: Path) -> None:
    """The steps of a release, and its candidates."""
    serving._show_steps(
        [
            StepRow(name="score-int8-w8a16-with-general/long_retrieval", state="Completed", seconds=1234.56),
            StepRow(name="download-HuggingFaceTB/SmolLM2-135M-Instruct", state="Cached", seconds=0),
        ]
    )
    say(
        serving.candidates_table(
            [
                {
                    "scheme": "int8-w8a16",
                    "digest": DIGEST,
                    "outcome": "non_inferior",
                    "version": 21,
                    "sentence": SENTENCE,
                },
                {"scheme": "int4", "digest": DIGEST, "outcome": "inconclusive", "version": None, "sentence": SENTENCE},
            ]
        )
    )


@example
def candidates_(_: Path) -> None:
    """`candidates`."""
    row = {
        "version": 21,
        "scheme": "int8-w8a16",
        "digest": DIGEST,
        "outcome": "non_inferior",
        "sentence": SENTENCE,
        "signed_at": datetime(2026, 11, 30, 17, 25, tzinfo=UTC),
        "problems": (),
    }
    say(
        candidates.candidates_table(
            [
                Examined.model_validate(row),
                Examined.model_validate({**row, "signed_at": None, "outcome": "", "problems": ("x",)}),
            ]
        )
    )


@example
def suite_import(_: Path) -> None:
    """`suite import` with what is lost."""
    lost = (
        Lost(test=None, what="providers[1].config.tools", reason="functions are not part of a suite"),
        Lost(
            test=12,
            what="assert[0]: javascript `output.length < 20`",
            reason="code of the configuration is not run; write `max_characters`",
        ),
    )
    suites._show_import(Imported(questions=(), lost=lost, notes=(), tests=14))


@example
def suite_check(_: Path) -> None:
    """`suite check` with findings."""
    findings = (
        Finding(
            level="error",
            code="unknown-assertion",
            where="eval_suites/regression/support.jsonl:12",
            what="There is no assertion 'contain'; did you mean 'contains'?",
        ),
        Finding(
            level="warning",
            code="cannot-fail",
            where="refund-after-90-days",
            what="Every model of the last three releases passed it.",
        ),
    )
    suites._show_check(SuiteCheck(suite="support", path=Path("x"), items=66, findings=findings, power=None))


@example
def quantize_plan(_: Path) -> None:
    """`quantize --dry-run`."""
    layers = (
        Ignored(
            name="lm_head",
            linear_bytes=0,
            reason="the output layer stays as published, because its error reaches every token",
        ),
        Ignored(linear_bytes=0, name="model.layers.0.block_sparse_moe.gate", reason="a router"),
    )
    say(quantize.ignored_table(layers))


@example
def backup_(_: Path) -> None:
    """`backup --with-production --dry-run`."""
    artifact = Artifact(
        line="support-de", digest=DIGEST, scheme="int8-w8a16", repo="acme/x", commit=DIGEST[:40], size_bytes=9 * 2**30
    )
    served = ServedVersion(version="12", serves=True, artifact=artifact)
    secrets = ("gateway/default.key", "signing/private.pem", "webhook/secret")
    expected = Forecast(versions=(served,), secrets=secrets, files=("a", "b"), records_bytes=10**8, free_bytes=2**40)
    backup._show_forecast(expected, Path("/backups/first.tar.zst"))
