"""A newcomer's own model: the tutorial's commands from a clean clone, with clicks in MLflow's page.

Two things differ from the page: its addresses stand for those of this stack, and the steps of a rollout are shorter.
Screenshots lie in the test's folder, and in the one that WEIGHBRIDGE_KEEP_SHOTS names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, HttpCredentials, Page, expect

from examples.load import Load
from registry.models.registry import Registry
from tasks.serve.gateway import Gateway
from tests.e2e import tutorial
from tests.e2e.e2e_support import Road
from tests.support.waiting import wait_for
from weighbridge import prefect_api

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

LINE = "mine"
PAGE_MS = 60_000
"""For a page on a busy machine."""


@pytest.fixture
def shots(tmp_path: Path) -> Iterator[Path]:
    """Folder of the screenshots."""
    folder = tmp_path / "shots"
    folder.mkdir()
    yield folder
    if keep := os.environ.get("WEIGHBRIDGE_KEEP_SHOTS"):
        shutil.copytree(folder, keep, dirs_exist_ok=True)


def test_the_tutorial_takes_an_own_model_to_production_back_and_away(
    road: Road, browser: Browser, tmp_path: Path, shots: Path, record_property: Callable[[str, object], None]
) -> None:
    model = tmp_path / "my model"
    shutil.copytree(road.shelf / "good", model)
    places = {
        tutorial.CLONE: "",
        "/models/mine": str(model).replace(" ", "%20"),
        "127.0.0.1:8080": f"127.0.0.1:{road.settings.gateway_port}",
    }
    clone = road.settings.root
    page = reviewer_page(road, browser)

    def type_next(expected: str) -> str:
        began, block = time.monotonic(), next(to_type)
        assert expected in block
        printed = tutorial.typed(block, clone, places)
        record_property(f"seconds of {expected}", round(time.monotonic() - began, 1))
        return printed

    to_type = iter(tutorial.blocks("sh"))
    before = pids(road)
    type_next("make up")
    assert pids(road) == before, "a second up is harmless"

    assert "roles apply" in type_next("lines new")
    road.apply_roles()
    shorten_steps(clone / "lines" / f"{LINE}.yaml")
    [questions] = tutorial.blocks("json")
    suite = clone / "eval_suites" / "regression" / f"{LINE}.jsonl"
    suite.write_text(suite.read_text() + questions)
    road.run("lines", "check", LINE)

    printed = type_next("release")
    click_promote(page, address_of_candidate(printed), shots / "first-card.png", shots / "dialog.png")
    wait_until_production(road, 1)
    answer = json.loads(type_next("curl"))
    assert "Paris" in answer["choices"][0]["message"]["content"]

    printed = type_next("release")
    keep_report(page, printed, shots / "report.png")
    with Load(f"{road.settings.gateway_url}/v1", road.key, LINE, clients=3, pause_seconds=1) as load:
        wait_for(lambda: load.by_version.get("1"), "the first answer")
        began = time.monotonic()
        click_promote(page, address_of_candidate(printed), shots / "card.png", shots / "dialog-2.png")
        wait_until_production(road, 2)
        record_property("seconds from the click to production", round(time.monotonic() - began, 1))
        wait_for(lambda: load.by_version.get("2"), "an answer of the new version")

        type_next("rollback")
        ended = time.time()
        wait_for(lambda: load.by_version.get("1", 0) >= 8, "answers of the old version")
    assert load.failed == []
    assert load.last_start("2", ended) is None
    assert shares(road) == {"1": 100}
    states = {version.version: version.state for version in Registry(road.settings).versions(LINE)}
    assert states[2] == "rolled_back"
    assert not road.json("promote", LINE)["changed"], "what was rolled back must not come back by itself"

    keep_deployments(page, road, shots / "deployments.png")
    type_next("lines retire")
    assert shares(road) == {}
    assert not (clone / "lines" / f"{LINE}.yaml").exists() and suite.exists()
    assert next(to_type, None) is None, "a block that nobody has typed"


def reviewer_page(road: Road, browser: Browser) -> Page:
    """A page of MLflow as ada sees it."""
    ada = HttpCredentials(username="ada", password=road.password("ada"), origin=road.settings.mlflow_url)
    return browser.new_context(http_credentials=ada, viewport={"width": 1280, "height": 1000}).new_page()


def address_of_candidate(printed: str) -> str:
    """The page that `release` says to click on."""
    found = re.search(r"\*Promote model\* at (\S+)", printed)
    assert found, printed
    return found[1]


def click_promote(page: Page, address: str, card: Path, dialog_shot: Path) -> None:
    """Approve as a person does: read the card, press *Promote model*, choose the line, press *Promote*."""
    page.goto("about:blank")
    page.goto(address, wait_until="domcontentloaded")
    expect(page.get_by_text("To approve:")).to_be_visible(timeout=PAGE_MS)
    page.screenshot(path=card)
    page.get_by_role("button", name="Promote model").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Copy to model").click()
    choice = page.get_by_title(LINE, exact=True).last
    expect(choice).to_be_visible(timeout=PAGE_MS)
    page.screenshot(path=dialog_shot)
    choice.click()
    dialog.get_by_role("button", name="Promote").click()
    expect(page).to_have_url(re.compile(rf"models/{LINE}/versions/\d+"), timeout=PAGE_MS)


def keep_report(page: Page, printed: str, shot: Path) -> None:
    found = re.search(r"Report \S+: (\S+)", printed)
    assert found, printed
    page.goto(found[1])
    expect(page.get_by_text("regression/mine").first).to_be_visible(timeout=PAGE_MS)
    page.screenshot(path=shot, full_page=True)


def keep_deployments(page: Page, road: Road, shot: Path) -> None:
    """Prefect's page asks for its secret once."""
    page.goto(f"{road.settings.prefect_url}/deployments")
    asked = page.locator("input[type=password]")
    asked.fill(prefect_api.read_secret(road.settings), timeout=PAGE_MS)
    asked.press("Enter")
    expect(page.get_by_text(LINE, exact=True).first).to_be_visible(timeout=PAGE_MS)
    page.screenshot(path=shot, full_page=True)


def shorten_steps(line: Path) -> None:
    """Seconds a step: what a step decides, the rollout's own tests see."""
    text = line.read_text()
    for usual, short in ((" hold_seconds: 30", " hold_seconds: 3"), ("max_hold_seconds: 120", "max_hold_seconds: 10")):
        assert usual in text
        text = text.replace(usual, short)
    line.write_text(text)


def pids(road: Road) -> dict[str, int]:
    return {service["name"]: service["pid"] for service in road.json("status")["services"]}


def shares(road: Road) -> dict[str, int]:
    backends = Gateway(road.settings).routes().line(LINE).backends
    return {backend.version: backend.weight for backend in backends if backend.weight}


def wait_until_production(road: Road, version: int) -> None:
    """Until the click has led to all traffic, and the registry says so."""
    wait_for(lambda: shares(road) == {str(version): 100}, f"all traffic on version {version}", 400)

    def recorded() -> bool:
        production = Registry(road.settings).production(LINE)
        return production is not None and production.version == version

    wait_for(recorded, f"version {version} as production")
