"""No fault of an endpoint passes in silence: rows of docs/evidence/endpoint-faults.md, the costliest left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.endpoint_faults import FAULTS, verdict_of

HARMLESS = {"none", "thinks, then answers right", "1 % errors"}
"""What both sides may share and still be compared."""


@pytest.mark.parametrize("name", [name for name in FAULTS if "the same" not in name])
def test_a_fault_that_both_sides_share_does_not_pass(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    outcome, reason = verdict_of(FAULTS[name], FAULTS[name], tmp_path)
    assert outcome == ("non_inferior" if name in HARMLESS else "invalid"), reason


@pytest.mark.parametrize("name", ["thinks, then answers right", "5 % cut", "refuses everything"])
def test_a_fault_of_the_candidate_does_not_pass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    assert verdict_of(FAULTS[name], FAULTS["none"], tmp_path)[0] in ("invalid", "regression")
