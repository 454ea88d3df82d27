"""Prefect's page in a browser: it asks for the secret once, and works with it."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Response

from weighbridge import prefect_api
from weighbridge.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
PAGE_MS = 60_000
"""For Prefect's page on a busy machine."""


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_page_asks_for_the_secret_and_then_shows_the_flows(
    browser: Browser, prefect_server: Settings, name: str
) -> None:
    page = browser.new_context().new_page()
    answers: list[tuple[int, str]] = []

    def note(answer: Response) -> None:
        answers.append((answer.status, urlsplit(answer.url).path))

    page.on("response", note)
    page.goto(f"http://{name}:{prefect_server.prefect_port}/flows", timeout=PAGE_MS)
    asked = page.locator("input[type=password]")
    asked.wait_for(timeout=PAGE_MS)
    assert not [path for status, path in answers if status == 200 and path.startswith("/api/")]
    answers.clear()
    asked.fill(prefect_api.read_secret(prefect_server))
    with page.expect_response(
        lambda answer: urlsplit(answer.url).path.startswith("/api/flows"), timeout=PAGE_MS
    ) as got:
        asked.press("Enter")
    assert got.value.status == 200
    page.wait_for_load_state("networkidle", timeout=PAGE_MS)
    assert not [answer for answer in answers if answer[0] in (401, 403, 421)]
