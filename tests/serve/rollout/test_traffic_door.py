"""Only what passed its check gets traffic: by rollback, alias, tag, stale routes, or a rollout that goes on."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from cli.app import app
from registry.audit import AuditLog
from registry.models import records
from registry.models.records import CandidateRecord, ReleaseRecord
from registry.store import Artifact
from tasks.serve import settled, step
from tasks.serve.approval import verify_approval
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.refusal import refusal
from tasks.serve.fleet.supervisor import Supervisor
from tasks.serve.gateway import Gateway, Mirror
from tasks.serve.installation import ServingInstallation
from tasks.serve.rollout import rollback
from tasks.serve.rollout.canary import roll_out, switch
from tasks.serve.rollout.traffic import mirror_requests, withdraw_unadmitted
from tests.serve.rollout.conftest import Promoted
from tests.serve.rollout.rollout_support import lock_of, wait_for_weight, weights, with_rollout
from tests.serve.serve_support import body_of, make_artifact
from tests.support.waiting import wait_for
from weighbridge.errors import ApprovalRefused, PortTaken, RolloutAborted
from weighbridge.health import answers
from weighbridge.settings import Settings

ROOT = Path(__file__).parents[3]
DOOR = "tasks/serve/rollout/traffic.py"


def failed_candidate(installation: ServingInstallation) -> Artifact:
    """An artifact of this installation that was weighed and did not pass."""
    artifact = make_artifact(installation.settings, "terrible")
    candidate = CandidateRecord(artifact=artifact, outcome="regression", passes=False, sentence="It lost 400 items.")
    record = ReleaseRecord(line="toy", repo="org/toy", commit="c" * 40, key="a9", candidates=(candidate,))
    installation.registry.record_release(record)
    return artifact


def made_by_hand(installation: ServingInstallation, artifact: Artifact, **tags: str) -> int:
    """A version that somebody with EDIT on the line makes, of what they like."""
    client = installation.registry.client
    own = {records.DIGEST: artifact.digest, records.SCHEME: "int8", records.PASSES: "true"}
    names = {f"{records.TAG}{name}": value for name, value in tags.items()}
    # Past the numbers that the gateway's fixture let through.
    while True:
        created = client.create_model_version("toy", source=artifact.uri, tags={**own, **names})
        if int(created.version) > 5:
            return int(created.version)


def roll_back(installation: ServingInstallation, promoted: Promoted, number: int | None) -> None:
    """Do what the flow `rollback` does, in its order."""
    line = promoted[0]
    target = step.rollback_target(installation, line, number)
    engine = body_of(step.prepare_rollback)(installation, line, target, "rolled back by hand")
    body_of(step.roll_back_traffic)(installation, line, target, engine, "rolled back by hand")


@pytest.mark.parametrize("tags", [{}, {"state": "serving"}, {"state": "previous"}])
def test_a_rollback_to_a_version_that_never_passed_is_refused(
    gateway: Gateway, promoted: Promoted, installation: ServingInstallation, tags: dict[str, str]
) -> None:
    number = made_by_hand(installation, failed_candidate(installation), **tags)
    with pytest.raises(ApprovalRefused, match="was not copied from"):
        roll_back(installation, promoted, number)
    assert weights(gateway) == {"1": 0, "2": 100}
    assert rollback.pending(installation.settings, "toy") is None
    # And again, whatever the tag says: a refusal that promote wrote down stands.
    installation.registry.set_state("toy", number, "refused", "no")
    installation.registry.client.set_model_version_tag("toy", str(number), records.STATE, "serving")
    with pytest.raises(ApprovalRefused, match="is refused"):
        roll_back(installation, promoted, number)
    with pytest.raises(ApprovalRefused, match="is refused"):
        verify_approval(installation, promoted[0], installation.registry.version("toy", number))


def test_the_alias_previous_moved_by_hand_leads_to_no_unchecked_version(
    gateway: Gateway, promoted: Promoted, installation: ServingInstallation
) -> None:
    number = made_by_hand(installation, failed_candidate(installation))
    installation.registry.client.set_registered_model_alias("toy", "previous", str(number))
    with pytest.raises(ApprovalRefused):
        roll_back(installation, promoted, None)
    assert weights(gateway) == {"1": 0, "2": 100}


def test_an_artifact_exchanged_after_its_approval_does_not_serve(
    gateway: Gateway, promoted: Promoted, installation: ServingInstallation
) -> None:
    line, registry = promoted[0], installation.registry
    for number in (1, 2):
        assert rolls_back_and_notes_the_artifact(installation, promoted, number)
    bad = failed_candidate(installation)
    for name in ("1", "2"):
        registry.client.set_model_version_tag("toy", name, records.DIGEST, bad.digest)
    with pytest.raises(ApprovalRefused, match="passed its check with the artifact"):
        roll_back(installation, promoted, 1)
    # Not even if the route was changed with the tag: the log names another artifact.
    route = gateway.routes().line("toy")
    backends = [backend.model_copy(update={"digest": bad.digest}) for backend in route.backends]
    gateway._file.save(gateway.routes().with_line(route.model_copy(update={"backends": tuple(backends)})))
    assert not settled.is_serving(installation, line, registry.version("toy", 2))
    with pytest.raises(ApprovalRefused, match="names the artifact"):
        verify_approval(installation, line, registry.version("toy", 2))


def rolls_back_and_notes_the_artifact(installation: ServingInstallation, promoted: Promoted, number: int) -> bool:
    """Roll back to a version that served, which notes its digest, and on again."""
    roll_back(installation, promoted, number)
    entries = [entry for entry in installation.audit_log.entries("toy") if entry.action == "admit"]
    return entries[-1].version == number and installation.audit_log.verify() is not None


def test_a_failed_version_whose_engine_is_still_warm_gets_nothing(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, promoted: Promoted, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = promoted[0]
    third = fleet.ensure(line, make_artifact(settings, "third"))
    with lock_of(settings) as lock:
        roll_out(line, "3", third, gateway, lock)
    switch("toy", "2", promoted[2], gateway)
    AuditLog.of(settings).append("state", "toy", 3, what="failed", reason="lost 12 items")
    with pytest.raises(ApprovalRefused, match="Version 3 of toy is failed by the audit log"):
        rollback.switch_warm(settings, "toy", 3, "")
    with pytest.raises(ApprovalRefused):
        switch("toy", "3", third, gateway)
    monkeypatch.setattr("weighbridge.line.Line.load", lambda name: line)
    result = CliRunner().invoke(app, ["rollback", "toy", "--to", "3"])
    assert isinstance(result.exception, ApprovalRefused)
    assert weights(gateway) == {"1": 0, "2": 100, "3": 0}
    assert rollback.pending(settings, "toy") is None


def stopped_rollout(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, promoted: Promoted, at_10: Callable[[], object], match: str
) -> None:
    """Roll version 3 out, do something when it has 10 %, and see the rollout stop before the next step."""
    line = promoted[0]
    third = fleet.ensure(line, make_artifact(settings, "third"))
    slow = with_rollout(line, steps=[10, 50, 100], hold_seconds=3, max_hold_seconds=20)

    def interfere() -> None:
        wait_for_weight(gateway, "3", 10)
        at_10()

    thread = threading.Thread(target=interfere)
    thread.start()
    with lock_of(settings) as lock, pytest.raises(RolloutAborted, match=match):
        roll_out(slow, "3", third, gateway, lock)
    thread.join()


def test_a_version_refused_while_it_rolls_out_gets_no_more(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, promoted: Promoted
) -> None:
    def refuse() -> None:
        AuditLog.of(settings).append("state", "toy", 3, what="refused", reason="withdrawn")

    stopped_rollout(settings, fleet, gateway, promoted, refuse, "at 50 %: Version 3 of toy is refused")
    assert weights(gateway) == {"1": 0, "2": 100, "3": 0}


def test_a_rollout_gives_back_what_it_took_even_if_the_log_breaks(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, promoted: Promoted
) -> None:
    path = AuditLog.of(settings).path

    def edit() -> None:
        path.write_bytes(path.read_bytes().replace(b"rolling", b"serving", 1))

    stopped_rollout(settings, fleet, gateway, promoted, edit, "at 50 %: Entry 1 was edited")
    assert weights(gateway) == {"1": 0, "2": 100, "3": 0}


def test_a_failed_version_gets_no_mirrored_requests_either(
    settings: Settings, gateway: Gateway, promoted: Promoted
) -> None:
    AuditLog.of(settings).append("state", "toy", 1, what="failed", reason="errors")
    with pytest.raises(ApprovalRefused, match="Version 1 of toy is failed"):
        mirror_requests(gateway, "toy", Mirror(version="1", per_cent=5))
    assert gateway.routes().line("toy").mirror is None


def test_a_restart_gives_nothing_to_what_was_refused_meanwhile(
    settings: Settings, gateway: Gateway, promoted: Promoted
) -> None:
    routes = gateway.routes()
    line = routes.line("toy")
    shares = {"1": 90, "2": 10}
    backends = [backend.model_copy(update={"weight": shares[backend.version]}) for backend in line.backends]
    AuditLog.of(settings).append("state", "toy", 2, what="failed", reason="errors")
    gateway._file.save(routes.with_line(line.model_copy(update={"backends": tuple(backends)})))
    [sentence] = withdraw_unadmitted(gateway)
    assert "Version 2 of toy is failed by the audit log" in sentence
    assert weights(gateway) == {"1": 100, "2": 0}
    assert withdraw_unadmitted(gateway) == []
    # A route that somebody wrote by hand, to an engine of their own.
    strange = [backend.model_copy(update={"version": "77", "weight": 100}) for backend in line.backends[:1]]
    gateway._file.save(gateway.routes().with_line(line.model_copy(update={"backends": tuple(strange)})))
    assert "never passed the approval check" in withdraw_unadmitted(gateway)[0]
    key = gateway.key()
    body = {"model": "toy", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{settings.gateway_url}/v1/chat/completions", headers=headers, json=body, trust_env=False)
    assert answer.status_code == 503


def test_a_broken_log_moves_no_traffic_and_takes_none(settings: Settings, gateway: Gateway, promoted: Promoted) -> None:
    log = AuditLog.of(settings)
    lines = log.path.read_text().splitlines()
    entry = json.loads(lines[0])
    log.path.write_text("\n".join([json.dumps({**entry, "what": "serving"}), *lines[1:]]) + "\n")
    assert "AuditBroken" in withdraw_unadmitted(gateway)[0]
    assert weights(gateway) == {"1": 0, "2": 100}


STRANGER = """
import encodings.idna, http.server, os, sys
os.setuid(65534)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    do_POST = do_GET
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="starts a process of another user")
def test_a_stranger_on_the_port_of_a_dead_engine_gets_no_requests(
    settings: Settings, fleet: LocalFleet, gateway: Gateway, promoted: Promoted
) -> None:
    serving, supervisor = promoted[2], Supervisor(settings)
    supervisor.shut_down()
    port = serving.endpoints[0].port
    stranger = subprocess.Popen([sys.executable, "-c", STRANGER, str(port)], cwd="/")
    try:
        wait_for(lambda: answers(serving.health_urls[0]), seconds=20)
        supervisor.start({})
        wait_for(lambda: isinstance(refusal(settings, serving.name), PortTaken), seconds=30)
        wait_for(lambda: weights(gateway)["2"] == 0, seconds=20)
        assert not fleet.is_warm(serving)
        assert rollback.switch_warm(settings, "toy", 2, "") is None
        # A flow that wants it starts it on another port.
        with pytest.raises(PortTaken):
            fleet.ensure(promoted[0], serving.artifact)
        assert fleet.ensure(promoted[0], serving.artifact).endpoints[0].port != port
    finally:
        stranger.kill()
        stranger.wait()


def test_the_door_costs_a_rollback_little(settings: Settings, gateway: Gateway, promoted: Promoted) -> None:
    log = AuditLog.of(settings)
    for number in range(500):
        log.append("state", "other", number, what="serving")
    began = time.monotonic()
    assert rollback.switch_warm(settings, "toy", None, "it stutters") == 1
    assert time.monotonic() - began < 5


def test_there_is_one_door_to_traffic() -> None:
    """No other file calls what moves the gateway's weights."""
    moving = {"set_line", "shift", "set_mirror"}
    callers = set()
    for folder in ("cli", "flows", "stack", "tasks", "registry"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in moving
                    and "gateway" in ast.unparse(node.func.value)
                ):
                    callers.add(path.relative_to(ROOT).as_posix())
    assert callers == {DOOR}
