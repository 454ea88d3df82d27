"""A verdict is what the pipeline signed, whatever MLflow's tags say."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from registry.models import records, verdicts
from registry.models.examine import Examined, examine
from registry.models.records import ReleaseRecord, Version
from registry.models.registry import Registry
from registry.signing import KeyPair
from weighbridge.errors import ApprovalRefused, VerdictForged, VerdictUnsigned
from weighbridge.line import Approval

Make = Callable[..., ReleaseRecord]
RULES = Approval(overriders=["ada"])
SIGNED_TAGS = {
    records.LINE: "other",
    records.KEY: "b2",
    records.SOURCE: f"hf://evil/toy@{'0' * 40}",
    records.SCHEME: "bf16",
    records.SIZE_BYTES: "1",
    records.OUTCOME: "baseline",
    records.SENTENCE: "Better in every respect.",
    records.PRODUCTION_DIGEST: "e" * 64,
    "weighbridge.licence": "mit",
}


def put_tag(registry: Registry, name: str, value: str, model: str = "toy-candidates", number: int = 1) -> None:
    registry.client.set_model_version_tag(model, str(number), name, value)


def click(registry: Registry, number: int = 1) -> Version:
    """Copy a candidate as *Promote model* does."""
    candidate = registry.client.get_model_version("toy-candidates", str(number))
    source = f"models:/toy-candidates/{number}"
    made = registry.client.create_model_version(
        "toy", source=source, run_id=candidate.run_id, tags=candidate.tags, description=candidate.description
    )
    return registry.version("toy", int(made.version))


def refuses(registry: Registry, error: type[ApprovalRefused], why: str, number: int = 1) -> None:
    """Neither the command nor a click in MLflow's page makes the candidate serve."""
    with pytest.raises(error, match=why):
        registry.approve("toy", number, "", "ada")
    with pytest.raises(error, match=why):
        registry.check_approval(click(registry, number), RULES)


@pytest.mark.parametrize("tag", SIGNED_TAGS)
def test_an_altered_tag_of_a_candidate_is_refused(registry: Registry, release: Make, tag: str) -> None:
    registry.record_release(release())
    put_tag(registry, tag, SIGNED_TAGS[tag])
    refuses(registry, VerdictForged, "another candidate|not what the pipeline signed" if tag == records.LINE else tag)


def test_every_signed_tag_is_tried(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    (candidate, _) = registry.candidates("toy")
    ours = {name for name in candidate.tags if name.startswith(records.TAG)}
    assert ours - {records.SIGNED_VERDICT, records.DIGEST, records.PASSES} == {*SIGNED_TAGS}


@pytest.mark.parametrize("name", [records.APPROVED_BY, records.STATE, "weighbridge.anything"])
def test_a_tag_that_the_pipeline_did_not_write_is_refused(registry: Registry, release: Make, name: str) -> None:
    registry.record_release(release())
    put_tag(registry, name, "serving")
    refuses(registry, VerdictForged, name)


def test_a_removed_tag_is_refused(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    registry.client.delete_model_version_tag("toy-candidates", "1", "weighbridge.licence")
    refuses(registry, VerdictForged, r"weighbridge\.licence is 'empty', was 'apache-2.0'")


def test_a_forged_pass_is_refused(registry: Registry, release: Make) -> None:
    """A builder registers a candidate that failed, with tags that say that it passed."""
    record = release(failing=("int8",))
    recorded = registry.record_release(record)
    failed = record.candidates[0].artifact
    good = registry.candidates("toy")[0]
    tags = {**good.tags, records.DIGEST: failed.digest, records.SCHEME: "int8"}
    del tags[records.SIGNED_VERDICT]
    run_id = recorded.candidates[0].run_id
    registry.client.create_model_version("toy-candidates", source=failed.uri, run_id=run_id, tags=tags)
    refuses(registry, VerdictUnsigned, "is not signed", 2)
    for envelope, error, why in (
        (good.tags[records.SIGNED_VERDICT], VerdictUnsigned, "about something else"),
        (registry.signed_verdict(run_id), VerdictForged, "passes is 'true', was 'false'"),
    ):
        put_tag(registry, records.SIGNED_VERDICT, envelope, number=2)
        refuses(registry, error, why, 2)


def test_a_verdict_of_another_line_is_refused(registry: Registry, release: Make) -> None:
    registry.record_release(release(line="lab"))
    registry.ensure_line("toy")
    lab = registry.client.get_model_version("lab-candidates", "1")
    digest = lab.tags[records.DIGEST]
    for tags in (lab.tags, {**lab.tags, records.LINE: "toy"}):
        made = registry.client.create_model_version(
            "toy-candidates", source=f"store://toy/{digest}", tags=tags, description=lab.description
        )
        refuses(registry, VerdictForged, "signature of another candidate", int(made.version))


def mutated(envelope: str, field: str) -> str:
    """Alter one field of what is signed, and leave the signature."""
    content = json.loads(envelope)
    statement = json.loads(base64.b64decode(content["payload"]))
    predicate: dict[str, Any] = statement["predicate"]
    if field == "subject":
        statement["subject"][0]["digest"]["sha256"] = "e" * 64
    elif isinstance(predicate[field], dict):
        predicate[field] |= {"general/choice": 1}
    else:
        predicate[field] = f"{predicate[field]}0"
    return json.dumps({**content, "payload": base64.b64encode(json.dumps(statement).encode()).decode()})


@pytest.mark.parametrize("field", ["subject", *verdicts.SignedVerdict.model_fields])
def test_an_altered_field_of_the_signed_verdict_is_refused(registry: Registry, release: Make, field: str) -> None:
    registry.record_release(release())
    envelope = registry.candidates("toy")[0].tags[records.SIGNED_VERDICT]
    put_tag(registry, records.SIGNED_VERDICT, mutated(envelope, field))
    refuses(registry, VerdictUnsigned, "not signed by the key of this installation")


def test_an_edited_card_is_refused(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    registry.client.update_model_version("toy-candidates", "1", description="**Better in every respect.**")
    refuses(registry, VerdictForged, "the card")


def test_an_edited_copy_is_refused(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    approved = registry.approve("toy", 1, "", "ada")
    put_tag(registry, records.SOURCE, f"hf://evil/toy@{'0' * 40}", model="toy")
    with pytest.raises(VerdictForged, match=r"no copy of its candidate: weighbridge\.source"):
        registry.check_approval(registry.version("toy", approved.version), RULES)


def test_a_verdict_of_another_installations_key_is_refused(registry: Registry, release: Make, tmp_path: Any) -> None:
    registry.record_release(release())
    vars(registry)["keys"] = KeyPair(tmp_path / "other")
    registry.keys.prepare()
    refuses(registry, VerdictUnsigned, "not signed by the key of this installation")


def test_releasing_again_signs_what_was_recorded_unsigned_and_mends_edits(registry: Registry, release: Make) -> None:
    record = release(failing=("int4",))
    recorded = registry.record_release(record)
    digests = {candidate.artifact.digest for candidate in record.candidates}
    assert registry.is_intact("toy", digests)
    registry.client.delete_model_version_tag("toy-candidates", "1", records.SIGNED_VERDICT)
    put_tag(registry, records.SENTENCE, "Better in every respect.")
    put_tag(registry, records.APPROVED_BY, "ada")
    registry.client.update_model_version("toy-candidates", "1", description="")
    assert not registry.is_intact("toy", digests)
    refuses(registry, VerdictUnsigned, "weighbridge release toy")

    assert registry.record_release(record) == recorded
    assert registry.is_intact("toy", digests)
    registry.set_state("toy", 1, "refused", "it was edited")
    registry.check_approval(registry.approve("toy", 1, "", "ada"), RULES)

    failed = recorded.candidates[1].run_id
    registry.client.set_tag(failed, records.OUTCOME, "inconclusive")
    assert not registry.is_intact("toy", digests)
    registry.record_release(record)
    assert registry.is_intact("toy", digests)


def test_what_served_before_verdicts_were_signed_goes_on_serving(registry: Registry, release: Make) -> None:
    registry.record_release(release())
    approved = registry.approve("toy", 1, "", "ada").version
    for model in ("toy", "toy-candidates"):
        registry.client.delete_model_version_tag(model, "1", records.SIGNED_VERDICT)
    with pytest.raises(VerdictUnsigned):
        registry.check_approval(registry.version("toy", approved), RULES)
    put_tag(registry, records.STATE, "serving", model="toy")
    with pytest.raises(VerdictUnsigned):
        registry.check_approval(registry.version("toy", approved), RULES)
    registry.set_state("toy", approved, "serving")
    registry.check_approval(registry.version("toy", approved), RULES)


def test_what_an_earlier_version_of_the_same_number_did_excuses_no_unsigned_verdict(
    registry: Registry, release: Make
) -> None:
    """An emptied MLflow numbers its versions from 1 again, and the audit log stays."""
    log = registry._log
    entry = log.append("state", "toy", 1, what="serving").model_copy(update={"at": "2020-01-01T00:00:00.000+00:00"})
    log.path.write_bytes(entry.model_copy(update={"hash": entry.expected_hash}).as_line)
    registry.record_release(release())
    registry.client.delete_model_version_tag("toy-candidates", "1", records.SIGNED_VERDICT)
    approved = click(registry)
    put_tag(registry, records.STATE, "serving", model="toy")
    with pytest.raises(VerdictUnsigned):
        registry.check_approval(registry.version("toy", approved.version), RULES)


def test_an_artifact_exchanged_together_with_its_unsigned_candidate_is_refused(
    registry: Registry, release: Make
) -> None:
    """A builder edits the candidate and a reviewer the version; the log has what was approved."""
    registry.record_release(release())
    approved = registry.approve("toy", 1, "", "ada").version
    registry.set_state("toy", approved, "serving")
    for model in ("toy", "toy-candidates"):
        registry.client.delete_model_version_tag(model, "1", records.SIGNED_VERDICT)
    registry.check_approval(registry.version("toy", approved), RULES)
    other = registry.candidates("toy")[1]
    tags = {name: value for name, value in other.tags.items() if name != records.SIGNED_VERDICT}
    made = registry.client.create_model_version("toy-candidates", source=other.artifact_uri, tags=tags)
    names = {"digest": other.digest, "source_uri": f"models:/toy-candidates/{made.version}"}
    version = registry.version("toy", approved).model_copy(update=names)
    with pytest.raises(ApprovalRefused, match="was approved with the artifact"):
        registry.check_approval(version, RULES)


def test_an_override_needs_a_signed_verdict_too(registry: Registry, release: Make) -> None:
    record = release(failing=("int4",))
    run_id = registry.record_release(record).candidates[1].run_id
    digest = record.candidates[1].artifact.digest
    registry.client.set_tag(run_id, records.PRODUCTION_DIGEST, "e" * 64)
    with pytest.raises(VerdictForged, match=r"weighbridge\.production_digest"):
        registry.override("toy", digest, "needed", "ada", RULES)
    registry.client.set_tag(run_id, records.PRODUCTION_DIGEST, "f" * 64)
    version = registry.override("toy", digest, "needed", "ada", RULES)
    registry.check_approval(version, RULES)
    registry.client.log_text(run_id, "{}", verdicts.SIGNED_FILE)
    with pytest.raises(VerdictUnsigned):
        registry.check_approval(version, RULES)


def test_a_run_made_by_hand_cannot_be_overridden(registry: Registry, release: Make) -> None:
    record = release()
    registry.record_release(record)
    experiment = registry.client.get_experiment_by_name("toy").experiment_id
    digest = "d" * 64
    tags = {**registry.candidates("toy")[0].tags, records.DIGEST: digest, records.PASSES: "false"}
    tags |= {records.KIND: records.CANDIDATE, records.OUTCOME: "regression"}
    registry.client.create_run(experiment, tags={name: value[:5000] for name, value in tags.items()})
    with pytest.raises(VerdictUnsigned, match="is not signed"):
        registry.override("toy", digest, "needed", "ada", RULES)


def examined(registry: Registry) -> Examined:
    return examine(registry.candidates("toy")[0], registry)


def test_what_mlflow_shows_is_compared_with_what_was_signed(registry: Registry, release: Make) -> None:
    recorded = registry.record_release(release())
    found = examined(registry)
    assert (found.outcome, found.sentence, found.problems) == ("non_inferior", "No worse.", ())
    run_id = recorded.candidates[0].run_id
    registry.client.log_metric(run_id, "general/choice.mean", 0.99)
    registry.client.log_param(run_id, "margin", "0.5")
    registry.client.log_text(run_id, "<p>all is well</p>", "report.html")
    put_tag(registry, records.SENTENCE, "Better in every respect.")
    found = examined(registry)
    assert found.sentence == "No worse."
    tag, *others = found.problems
    assert "Better in every respect" in tag
    assert others == [
        "The metric general/choice.mean is 0.99, was 0.75.",
        "The parameter margin is 0.5, was None.",
        "The file report.html was altered.",
    ]
    assert not registry.is_as_signed(registry.candidates("toy")[0])
    registry.client.delete_model_version_tag("toy-candidates", "1", records.SIGNED_VERDICT)
    assert "is not signed" in examined(registry).problems[0]


def test_an_edited_digest_of_production_is_not_what_candidates_are_weighed_against(
    registry: Registry, release: Make
) -> None:
    record = release()
    registry.record_release(record)
    production, other = (candidate.artifact.digest for candidate in record.candidates)
    approved = registry.approve("toy", 1, "", "ada").version
    registry.set_state("toy", approved, "serving")
    registry.set_production("toy", approved)
    put_tag(registry, records.DIGEST, other, model="toy")
    edited = registry.production("toy")
    assert edited is not None and edited.digest == other
    assert registry.approved_digest(edited) == production
    candidate = registry.candidate("toy", 2).model_copy(update={"digest": "c" * 64, "production_digest": other})
    assert registry.moved_production(candidate) == edited
    fair = candidate.model_copy(update={"production_digest": production})
    assert registry.moved_production(fair) is None


def test_a_verdict_with_numbers_that_json_lacks_is_signed_and_read(registry: Registry, release: Make) -> None:
    candidate = release().candidates[0].model_copy(update={"verdict": {"low": float("-inf")}})
    tags = {records.LINE: "toy", records.DIGEST: candidate.artifact.digest}
    envelope = verdicts.sign(registry.keys, verdicts.content(candidate, tags, ""))
    signed = verdicts.read(registry.keys, "toy", candidate.artifact.digest, envelope)
    assert signed.verdict == {"low": "-Infinity"} and signed.metrics == candidate.metrics
