"""A line whose file is gone: it is shown, can be rolled back, and its retirement ends it, also after a kill."""

from __future__ import annotations

import pytest

from cli.uses import CLOSED
from registry.audit import AuditLog
from stack.report import line_statuses
from stack.retire_line import plan_retirement, retire_line
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.fleet.protocol import plan_engine
from tasks.serve.gateway import Gateway
from tasks.serve.installation import ServingInstallation
from tasks.serve.orphans import line_or_orphan, orphan_notes, orphans
from tests.serve.rollout.conftest import Promoted
from weighbridge.errors import LineUnknown
from weighbridge.retired import is_retired
from weighbridge.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


class Killed(BaseException):
    """Stands for a kill at this point."""


def test_a_line_without_a_file_is_shown_and_retired_in_two_attempts(
    settings: Settings,
    fleet: LocalFleet,
    gateway: Gateway,
    promoted: Promoted,
    installation: ServingInstallation,
) -> None:
    line, old, new = promoted
    [orphan] = orphans(settings)
    assert (orphan.line, orphan.serving, set(orphan.engines)) == ("toy", "2", {old.name, new.name})
    assert "version 2 still serves" in orphan_notes(settings)[0] and "lines retire toy" in orphan_notes(settings)[0]
    assert [status.line for status in line_statuses(installation) if status.serving] == ["toy"]
    assert plan_engine(line_or_orphan(settings, "toy")) == plan_engine(line), "a rollback finds the same engines"

    planned = plan_retirement(installation, "toy")
    assert planned.weights == {"1": 0, "2": 100} and not planned.file and not planned.begun
    assert gateway.routes().line("toy").backend("2").weight == 100, "a plan changes nothing"

    def killed(name: str, what: str) -> None:
        if "no route" in what:
            raise Killed

    with pytest.raises(Killed):
        retire_line(installation, "toy", "replaced", killed)
    assert not gateway.routes().line("toy").backends and fleet.engines("toy")
    assert plan_retirement(installation, "toy").begun and not is_retired(settings, "toy")

    retire_line(installation, "toy", "replaced", lambda name, what: None)
    assert not fleet.engines("toy") and not orphans(settings) and is_retired(settings, "toy")
    registry = installation.registry
    assert registry.production("toy") is None and registry.previous("toy") is None
    assert {version.state for version in registry.versions("toy")} <= set(CLOSED), "store gc may free their artifacts"
    entries = [entry for entry in AuditLog.of(settings).entries("toy") if entry.action == "line retired"]
    assert [(entry.reason, "2 at 100 %" in entry.what) for entry in entries] == [("replaced", True)]
    AuditLog.of(settings).verify()
    with pytest.raises(LineUnknown, match="It was retired on"):
        plan_retirement(installation, "toy")
