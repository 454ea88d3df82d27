"""`open`: the pages of MLflow and Prefect, and the newest report, in the browser or as addresses."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.complete import lines as complete_lines
from cli.output import JsonOption, say, say_plain, show_json

if TYPE_CHECKING:
    from weighbridge.settings import Settings


class PageName(StrEnum):
    """A page that can be opened."""

    CANDIDATES = "candidates"
    VERSIONS = "versions"
    RUNS = "runs"
    REPORT = "report"
    PREFECT = "prefect"


def open_page(
    line: Annotated[str, typer.Argument(help="A line; all of them by default.", autocompletion=complete_lines)] = "",
    page: Annotated[PageName, typer.Option(help="The one to open; the others are printed.")] = PageName.CANDIDATES,
    only_print: Annotated[bool, typer.Option("--print", help="Open nothing, print the addresses.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open MLflow's page of a line's candidates; print the addresses of its versions, runs and newest report too.

    Without a display, as over SSH, nothing is opened.
    """
    from weighbridge.errors import FileUnusable
    from weighbridge.line import Line
    from weighbridge.settings import load_settings

    settings = load_settings()
    if line:
        Line.load(line)
    addresses = _addresses(settings, line)
    if as_json:
        show_json(addresses)
        return
    if page not in addresses:
        known = f"`weighbridge open {line} --print` lists the pages that there are." if line else "Name a line."
        raise FileUnusable(f"There is no page {page.value!r} {f'of {line} yet' if line else 'without a line'}.", known)
    for name, address in addresses.items():
        say_plain(f"{name:<12}{address}")
    if only_print:
        return
    if not _has_display():
        say("No display here, so nothing was opened.", error=True)
        return
    import webbrowser

    if not webbrowser.open(addresses[page]):
        say("No browser was found, so nothing was opened.", error=True)


def _addresses(settings: Settings, line: str) -> dict[str, str]:
    """Addresses by the names of the pages; the report's is a file of this machine, and missing before a release."""
    models = f"{settings.mlflow_url}/#/models"
    prefect = settings.prefect_page_url or settings.prefect_url
    if not line:
        return {"candidates": models, "runs": f"{settings.mlflow_url}/#/experiments", "prefect": f"{prefect}/runs"}
    found = {
        "candidates": f"{models}/{line}-candidates",
        "versions": f"{models}/{line}",
        "runs": f"{settings.mlflow_url}/#/experiments",
        "prefect": f"{prefect}/deployments",
    }
    reports = (settings.home / "reports" / line).glob("*.html")
    if newest := max(reports, key=lambda path: path.stat().st_mtime, default=None):
        found["report"] = newest.as_uri()
    return found


def _has_display() -> bool:
    if "SSH_CONNECTION" in os.environ or not sys.stdout.isatty():
        return False
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("open")(open_page)
