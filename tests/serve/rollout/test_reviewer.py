"""A reviewer approves in a browser and the version gets served; the server refuses a builder.

A real MLflow with accounts, a real Chromium, Envoy, and a tiny engine. The pictures of what people saw are kept in the
test's folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Response, ViewportSize, expect
from typer.testing import CliRunner

from cli.app import app
from registry import accounts
from registry.audit import AuditLog
from registry.models.registry import Registry
from registry.store import Store
from tasks.evaluate.scoring.scores import ItemScore, SuiteScores
from tasks.evaluate.verdict.verdict import judge, judge_suite
from tasks.evaluate.weigh import Weighed
from tasks.propose.propose import propose
from tasks.serve import settled, step
from tasks.serve.fleet.local import LocalFleet
from tasks.serve.gateway import Gateway
from tasks.serve.installation import ServingInstallation
from tasks.source.pinned import Source
from tests.serve.serve_support import body_of, make_line
from weighbridge.line import Line
from weighbridge.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
WINDOW: ViewportSize = {"width": 1280, "height": 800}
LINE = "clicked"
PAGE_MS = 60_000
"""For MLflow's page on a busy machine."""
ITEMS = 300
Open = Callable[[str], Page]


@pytest.fixture
def settings(accounts_server: Settings, settings: Settings) -> Settings:
    """The serve room's ports, and the home of the MLflow that has accounts."""
    return settings.model_copy(update={"home": accounts_server.home, "mlflow_port": accounts_server.mlflow_port})


@pytest.fixture
def open_candidate(browser: Browser, accounts_server: Settings, plan: Line) -> Open:
    """Open the candidate's page with an account, in a window of 1280 × 800."""

    def opened(who: str) -> Page:
        key = accounts.read_password(accounts.password_file(accounts_server, who))
        context = browser.new_context(viewport=WINDOW, http_credentials={"username": who, "password": key})
        page = context.new_page()
        page.set_default_timeout(PAGE_MS)
        page.goto(f"{accounts_server.mlflow_url}/#/models/{LINE}-candidates/versions/1", wait_until="domcontentloaded")
        expect(page.get_by_role("button", name="Promote model")).to_be_visible(timeout=PAGE_MS)
        return page

    return opened


@pytest.fixture
def plan(settings: Settings) -> Line:
    """A line with a candidate and its verdict against production, recorded by the pipeline's account."""
    line = make_line().model_copy(update={"name": LINE})
    folder = Store.of(settings).staging(LINE, "make")
    (folder / "config.json").write_text("{}")
    artifact = Store.of(settings).adopt(folder, line=LINE, scheme="int8", repo="org/toy", commit="c" * 40)
    candidate_scores, production_scores = (
        _scores(digest, wrong) for digest, wrong in ((artifact.digest, 4), ("f" * 64, 3))
    )
    verdict = judge(
        artifact.digest,
        production_scores.artifact_digest,
        [judge_suite(candidate_scores, production_scores, margin=0.05, confidence=0.95)],
        [candidate_scores.suite],
    )
    weighed = Weighed(
        artifact=artifact, verdict=verdict, candidate_scores=(candidate_scores,), production_scores=(production_scores,)
    )
    source = Source(repo="org/toy", commit="c" * 40, licence="mit", gated=False, config={}, files=(), ignored=())
    propose(ServingInstallation(settings), line, source, None, [weighed])
    return line


def _scores(digest: str, wrong: int) -> SuiteScores:
    items = (
        ItemScore(id=f"{number}", score=float(number >= wrong), question=f"Question {number}?", answer="An answer")
        for number in range(ITEMS)
    )
    return SuiteScores(
        suite="general/choice",
        suite_digest="e" * 64,
        artifact_digest=digest,
        scorer="lm-eval 0.4.13, float32",
        items=tuple(items),
        seconds=1.0,
    )


def promote(page: Page) -> Response:
    """Press *Promote model*, choose the line, press *Promote*; MLflow's answer."""
    page.get_by_role("button", name="Promote model").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").click()
    # By its exact title: `<line>-candidates` is in the list too.
    page.locator(f".du-bois-light-select-item-option[title='{LINE}']").click()
    with page.expect_response(lambda answer: "model-versions/create" in answer.url) as answered:
        dialog.get_by_role("button", name="Promote", exact=True).click()
    return answered.value


def test_a_reviewers_click_is_a_named_approval_that_gets_served(
    open_candidate: Open, plan: Line, settings: Settings, fleet: LocalFleet, gateway: Gateway, tmp_path: Path
) -> None:
    builder = open_candidate("bo")
    refused = promote(builder)
    builder.wait_for_timeout(1000)
    builder.screenshot(path=tmp_path / "builder.png")
    assert (refused.status, refused.text()) == (403, "Permission denied")
    assert Registry(settings).versions(LINE) == []

    reviewer = open_candidate("ada")
    for read in ("No worse than production", "general/choice", f"weighbridge approve {LINE}", "Open the report"):
        text = reviewer.get_by_text(read).first
        expect(text).to_be_in_viewport(timeout=PAGE_MS)
    reviewer.screenshot(path=tmp_path / "card.png")
    approved = promote(reviewer)
    assert approved.status == 200, approved.text()
    reviewer.wait_for_timeout(1000)
    reviewer.screenshot(path=tmp_path / "approved.png")

    installation = ServingInstallation(settings)
    target = settled.requested_version(installation, plan, None)
    assert target is not None and (target.version, target.source_uri) == (1, f"models:/{LINE}-candidates/1")
    artifact = body_of(step.check_approval)(installation, plan, target)
    engine = body_of(step.start_engine)(installation, plan, target, artifact)
    with step.traffic_lock(installation, LINE, 10) as lock:
        body_of(step.shift_traffic)(installation, plan, target, engine, lock)
        body_of(step.finish_rollout)(installation, plan, target)
    body = {"model": LINE, "messages": [{"role": "user", "content": "Hello"}]}
    answer = httpx.post(
        f"{settings.gateway_url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {gateway.key()}"},
        timeout=30,
    )
    assert answer.status_code == 200 and answer.json()["choices"], answer.text
    serving = Registry(settings).production(LINE)
    assert serving is not None and (serving.version, serving.state_reason) == (1, "approved by ada")

    result = CliRunner().invoke(app, ["audit", "--line", LINE, "--json"])
    entries = [
        entry
        for entry in json.loads(result.stdout)
        if entry["version"] == 1 and entry.get("model") != f"{LINE}-candidates"
    ]
    assert (entries[0]["who"], entries[0]["action"]) == ("ada", "mlflow.create_model_version")
    assert entries[0]["what"].startswith(f"source models:/{LINE}-candidates/1") and entries[0]["address"] == "127.0.0.1"
    states = [(entry["what"], entry["reason"]) for entry in entries if entry["action"] == "state"]
    assert states == [("rolling", "approved by ada"), ("serving", "approved by ada")]
    AuditLog().verify()
