"""A browser for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Debian's Chromium (`apt-get install chromium`), or one of playwright's own; without any, skip the test."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            # Chromium has no sandbox for a container's root; the pages are local ones.
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no Chromium here: {str(error).strip().splitlines()[0]}")
        yield browser
        browser.close()
