"""MLflow's page in a browser, behind the guard: all that it shows of a release is answered."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Response, expect

from registry import accounts
from registry.audit import AuditLog
from registry.models.records import ReleaseRecord
from registry.models.registry import Registry
from registry.server.refused import is_asked_by_the_page
from weighbridge.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
Make = Callable[..., ReleaseRecord]
PAGE_MS = 60_000
"""For MLflow's page on a busy machine."""


def test_mlflows_page_shows_a_release_to_a_reviewer(browser: Browser, accounts_server: Settings, release: Make) -> None:
    registry, before = Registry(accounts_server), len(list(AuditLog().entries("")))
    one, other = (candidate.run_id for candidate in registry.record_release(release()).candidates)
    found = registry.client.get_experiment_by_name("toy")
    assert found is not None
    experiment = f"experiments/{found.experiment_id}"
    key = accounts.read_password(accounts.password_file(accounts_server, "ada"))
    context = browser.new_context(http_credentials={"username": "ada", "password": key})
    page = context.new_page()
    refused: list[str] = []

    def note(answer: Response) -> None:
        method, path = answer.request.method, urlsplit(answer.url).path
        if answer.status == 403 and not is_asked_by_the_page(method, path):
            refused.append(f"{method} {path}")

    page.on("response", note)
    for address, text in (
        ("experiments", "toy"),
        (experiment, "Overview"),
        (f"{experiment}/runs", "toy 01234567"),
        (f"{experiment}/runs/{one}", "general/choice.mean"),
        (f"{experiment}/runs/{one}/artifacts/report.html", "report.html"),
        (f'compare-runs?runs=["{one}","{other}"]&experiments=["{found.experiment_id}"]', "Comparing 2 Runs"),
        ("models", "toy-candidates"),
        ("models/toy-candidates/versions/1", "The verdict."),
        ("account", "Logged in as"),
    ):
        page.goto("about:blank")
        page.goto(f"{accounts_server.mlflow_url}/#/{address}", wait_until="domcontentloaded")
        expect(page.get_by_text(text).first, address).to_be_visible(timeout=PAGE_MS)
        expect(page.get_by_text("PERMISSION_DENIED"), address).to_have_count(0)
    context.close()
    assert refused == []
    entries = list(AuditLog().entries(""))[before:]
    assert [entry.what for entry in entries if (entry.who, entry.action) == ("ada", "mlflow.refused")] == []
