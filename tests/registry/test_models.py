"""Record releases, approve candidates and set production, on MLflow with SQLite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from registry.audit import AuditLog
from registry.models import records
from registry.models.records import ReleaseRecord
from registry.models.registry import Registry
from weighbridge.errors import ApprovalRefused, VerdictForged, VersionUnknown
from weighbridge.line import Approval

Make = Callable[..., ReleaseRecord]
WRITES = ("create_", "log_", "set_", "finalize_", "restore_", "delete_")


def contents(registry: Registry, line: str) -> dict[str, Any]:
    """Everything that MLflow has of a line, without ids, times and the line's name."""
    client = registry.client
    experiment = client.get_experiment_by_name(line)
    runs = client.search_runs([experiment.experiment_id])
    models = client.search_logged_models([experiment.experiment_id])
    names = {run.info.run_id: run.info.run_name.removeprefix(line) for run in runs}
    return {
        "runs": sorted((names[run.info.run_id], run.info.status, len(run.data.params)) for run in runs),
        "files": sorted(file.path for run in runs for file in client.list_artifacts(run.info.run_id)),
        "points": sorted(
            (names[run.info.run_id], name, len(client.get_metric_history(run.info.run_id, name)))
            for run in runs
            for name in run.data.metrics
        ),
        "outputs": sorted((names[run.info.run_id], len(run.outputs.model_outputs)) for run in runs if run.outputs),
        "models": sorted(
            (model.name.removeprefix(line), str(model.status), len(model.metrics or [])) for model in models
        ),
        "versions": [(version.version, version.digest) for version in registry.candidates(line)],
    }


def test_an_experiment_opens_on_its_runs_and_keeps_a_chosen_kind(registry: Registry) -> None:
    client, kind = registry.client, "mlflow.experimentKind"
    experiment_id = registry.ensure_line("toy")
    assert client.get_experiment(experiment_id).tags[kind] == "custom_model_development"
    client.set_experiment_tag(experiment_id, kind, "finetuning")
    registry.ensure_line("toy")
    assert client.get_experiment(experiment_id).tags[kind] == "finetuning"

    older = client.create_experiment("older")
    assert registry.ensure_line("older") == older
    assert client.get_experiment(older).tags[kind] == "custom_model_development"


def test_a_release_becomes_runs_logged_models_and_versions(registry: Registry, release: Make) -> None:
    recorded = registry.record_release(release(failing=("int4",)))

    assert [candidate.version for candidate in recorded.candidates] == [1, None]
    (version,) = registry.candidates("toy")
    assert version.source_uri == version.artifact_uri == f"store://toy/{version.digest}"
    assert (version.scheme, version.outcome, version.passes, version.production_digest) == (
        "int8",
        "non_inferior",
        True,
        "f" * 64,
    )
    assert version.tags[records.SOURCE].startswith("hf://org/toy@0123456789")
    written = contents(registry, "toy")
    assert len(written["runs"]) == 3 and {status for _, status, _ in written["runs"]} == {"FINISHED"}
    assert [metrics for *_, metrics in written["models"]] == [2, 2], "logged models have the metrics too"
    assert written["files"] == sorted(["report.html", "items", "plots", "signed_verdict.json"] * 2)


def test_the_card_becomes_the_description_and_links_to_the_report(registry: Registry, release: Make) -> None:
    recorded = registry.record_release(release())
    original = registry.client.get_model_version("toy-candidates", "1")
    run_id = recorded.candidates[0].run_id
    assert "The verdict." in original.description
    assert f"(get-artifact?path=report.html&run_uuid={run_id})" in original.description
    assert original.run_id == run_id


def test_the_same_key_twice_records_once_and_another_key_records_again(registry: Registry, release: Make) -> None:
    first = registry.record_release(release())
    once = contents(registry, "toy")
    assert registry.record_release(release()) == first
    assert contents(registry, "toy") == once
    registry.record_release(release(key="b2"))
    assert [version.version for version in registry.candidates("toy")] == [1, 2, 3, 4]


def test_a_rerun_after_a_kill_at_any_call_ends_in_the_same_state(
    registry: Registry, release: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Simulated `kill -9`: no code catches it."""

    calls_left = 0

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls_left
            answer = call(*args, **kwargs)
            calls_left -= 1
            if calls_left == 0:
                raise Killed
            return answer

        return wrapped

    def record(line: str) -> dict[str, Any]:
        registry.record_release(release(line=line, failing=("int4",)))
        return contents(registry, line)

    expected = record("whole")
    client = type(registry.client)
    for name in dir(client):
        if name.startswith(WRITES):
            monkeypatch.setattr(client, name, dying(getattr(client, name)))
    deaths = 0
    while True:
        line = f"dying{deaths}-"
        calls_left = deaths + 1
        try:
            registry.record_release(release(line=line, failing=("int4",)))
            break
        except Killed:
            deaths += 1
            assert record(line) == expected, f"killed after call {deaths}"
    assert deaths >= 15, "there was a kill after every write"


def test_approving_copies_the_version_with_approver_and_reason(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    approved = registry.approve("toy", 1, "read the report", "ada")

    assert (approved.model, approved.version, approved.source_uri) == ("toy", 1, "models:/toy-candidates/1")
    assert (approved.approved_by, approved.approved_reason, approved.state) == ("ada", "read the report", None)
    assert approved.digest == registry.candidate("toy", 1).digest
    assert "The verdict." in registry.client.get_model_version("toy", "1").description
    assert registry.waiting("toy") == [registry.version("toy", 1)]
    registry.check_approval(approved, Approval())


def test_approving_an_artifact_twice_makes_one_copy(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    registry.record_release(release(key="b2"))
    digest = registry.candidate_version("toy", 1).digest
    assert registry.approved_version("toy", digest) is None
    first = registry.approve("toy", 1, "", "ada")
    assert not first.earlier and registry.approved_version("toy", digest) == registry.version("toy", first.version)
    assert registry.approve("toy", 3, "", "bob").version == first.version, "the same digest under another key"
    registry.set_state("toy", 1, "serving")
    registry.set_production("toy", 1)
    assert registry.approve("toy", 1, "", "ada").version == 1, "it is in production already"
    registry.set_state("toy", 1, "rolled_back", "errors")
    registry.client.delete_registered_model_alias("toy", "production")
    assert registry.approve("toy", 1, "mended the engine", "ada").version == 2, "a retry needs a new approval"


def test_a_reason_given_later_is_kept_with_the_version_and_is_a_second_entry(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    registry.approve("toy", 1, "", "ada")
    later = registry.approve("toy", 1, "read the flips too", "bob")
    assert later.earlier and later.reason_added
    assert not registry.approve("toy", 1, "read the flips too", "bob").reason_added, "it is kept already"
    assert not registry.approve("toy", 1, "", "bob").reason_added, "no reason replaces none"
    version = registry.version("toy", 1)
    assert (version.approved_by, version.approved_reason) == ("ada", "read the flips too")
    entries = [(entry.action, entry.who, entry.reason) for entry in AuditLog().entries("toy")]
    assert entries == [("approve", "ada", ""), ("reason", "bob", "read the flips too")]
    registry.check_approval(version, Approval())


def test_candidates_that_nobody_approved_are_awaiting(registry: Registry, release: Make) -> None:
    assert registry.awaiting("toy") == []
    registry.record_release(release())
    registry.approve("toy", 1, "good", "ada")
    assert [candidate.name for candidate in registry.awaiting("toy")] == ["candidate 2 of toy"]


def test_every_change_of_production_is_in_the_audit_log(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    version = registry.approve("toy", 1, "read the report", "ada").version
    registry.set_state("toy", version, "serving")
    registry.set_production("toy", version)
    registry.set_state("toy", version, "rolled_back", "errors")
    registry.set_previous("toy", None)
    entries = list(AuditLog().entries("toy"))
    assert [(entry.action, entry.version) for entry in entries] == [
        ("approve", version), ("state", version), ("production", version), ("state", version), ("previous", None)
    ]  # fmt: skip
    assert (entries[0].who, entries[0].reason) == ("ada", "read the report")
    assert (entries[3].what, entries[3].reason) == ("rolled_back", "errors")
    AuditLog().verify()


def test_a_failed_candidate_cannot_be_approved_and_the_refusal_quotes_its_verdict(
    registry: Registry, release: Make
) -> None:
    record = release(failing=("int4",))
    registry.record_release(record)
    digest = record.candidates[1].artifact.digest
    with pytest.raises(ApprovalRefused, match="general/choice lost 12 items"):
        registry.candidate("toy", digest[:8])
    registry.client.set_model_version_tag("toy-candidates", "1", records.PASSES, "false")
    with pytest.raises(ApprovalRefused, match="did not pass"):
        registry.approve("toy", 1, "please", "ada")
    assert registry.versions("toy") == []


def test_candidates_are_found_by_number_or_digest_and_errors_list_them(registry: Registry, release: Make) -> None:
    with pytest.raises(VersionUnknown, match=r"none yet.*weighbridge release toy"):
        registry.candidate("toy", "1")
    registry.record_release(release())
    digest = registry.candidate("toy", 2).digest
    assert registry.candidate("toy", "2").digest == registry.candidate("toy", digest[:9].upper()).digest
    for reference in ("7", "0" * 10, "", "' OR 1=1"):
        with pytest.raises(VersionUnknown, match=rf"candidate 1 \(int8 \w+\), candidate 2 \(int4 {digest[:12]}\)"):
            registry.candidate("toy", reference)
    with pytest.raises(VersionUnknown, match="toy has no version 5; it has none yet"):
        registry.version("toy", 5)


def test_a_version_belongs_to_its_line_whatever_the_line_is_called(registry: Registry, release: Make) -> None:
    line = "toy-candidates"
    registry.record_release(release(line=line))
    [first, _] = registry.candidates(line)
    approved = registry.approve(line, first.version, "", "ada")
    registry.set_production(line, approved.version)
    production = registry.production(line)
    assert production is not None and {first.line, approved.line, production.line} == {line}
    registry.check_approval(production, Approval())


def test_states_and_aliases_identify_production(registry: Registry, release: Make) -> None:
    assert registry.production("toy") is None and registry.waiting("toy") == []
    registry.record_release(release())
    first, second = (registry.approve("toy", number, "", "ada").version for number in (1, 2))
    assert (first, second) == (1, 2)

    registry.set_state("toy", 1, "serving")
    registry.set_production("toy", 1)
    registry.set_state("toy", 2, "rolling", "step 10%")
    assert [version.version for version in registry.waiting("toy")] == [2]
    registry.set_production("toy", 2)
    registry.set_previous("toy", 1)
    production, previous = registry.production("toy"), registry.previous("toy")
    assert production is not None and (production.version, production.aliases) == (2, ("production",))
    assert previous is not None and (previous.version, previous.state) == (1, "serving")
    assert [version.aliases for version in registry.versions("toy")] == [("previous",), ("production",)]
    registry.set_previous("toy", None)
    registry.set_previous("toy", None)
    assert registry.previous("toy") is None
    registry.set_state("toy", 2, "refused", "its digest is wrong")
    assert registry.version("toy", 2).state_reason == "its digest is wrong" and registry.waiting("toy") == []
    with pytest.raises(ValueError, match="none of rolling"):
        registry.set_state("toy", 2, "happy")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "altered", "complaint"),
    [
        ("store://toy/" + "e" * 64, {}, "was not copied from toy-candidates"),
        ("models:/toy-candidates/1", {records.DIGEST: "e" * 64}, "names the artifact eeeeeeeeeeee"),
        ("models:/toy-candidates/1", {records.PASSES: ""}, "carries no passing verdict"),
        ("models:/toy/1", {}, "was not copied from toy-candidates"),
    ],
)
def test_a_version_created_by_hand_is_no_approval(
    registry: Registry, release: Make, source: str, altered: dict[str, str], complaint: str
) -> None:
    registry.record_release(release())
    registry.approve("toy", 1, "", "ada")
    tags = {**registry.candidate("toy", 1).tags, **altered}
    registry.client.create_model_version("toy", source=source, tags=tags)
    with pytest.raises(ApprovalRefused, match=complaint):
        registry.check_approval(registry.version("toy", 2), Approval())


def test_an_approval_of_a_missing_or_moved_candidate_is_refused(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    approved = registry.approve("toy", 1, "", "ada")
    registry.client.delete_model_version("toy-candidates", "1")
    with pytest.raises(ApprovalRefused, match="candidate 1, which is not there"):
        registry.check_approval(approved, Approval())
    tags = registry.candidate("toy", 2).tags
    registry.client.create_model_version("toy-candidates", source="s3://elsewhere/x", tags=tags)
    with pytest.raises(VerdictForged, match=r"Candidate 3 of toy is not what .* signed: the card, the source"):
        registry.approve("toy", 3, "", "ada")
    registry.client.create_model_version("toy", source="models:/toy-candidates/3", tags=tags)
    with pytest.raises(ApprovalRefused, match="s3://elsewhere/x is not the artifact that was weighed"):
        registry.check_approval(registry.version("toy", 2), Approval())
