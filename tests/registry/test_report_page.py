"""The report as a whole page of MLflow's address, which can do nothing there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from registry.server.report_page import as_page

DOWNLOAD = [
    (b"content-type", b"text/html"),
    (b"content-disposition", b"attachment; filename=report.html"),
    (b"content-length", b"9"),
]


def answered(path: str, query: str, method: str = "GET", status: int = 200) -> dict[str, str]:
    """Headers of MLflow's answer, as a browser gets them."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "query_string": query.encode()}
    start = {"type": "http.response.start", "status": status, "headers": DOWNLOAD}

    async def answer() -> None:
        await as_page(scope, send)(start)

    asyncio.run(answer())
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def test_the_report_opens_as_a_page_that_reaches_neither_mlflow_nor_any_other_address() -> None:
    headers = answered("/get-artifact", "path=report.html&run_uuid=1")
    assert headers["content-disposition"] == "inline" and headers["content-length"] == "9"
    policy = {rule.split()[0]: rule.split()[1:] for rule in headers["content-security-policy"].split("; ")}
    # Without allow-same-origin its scripts have an origin of their own, so MLflow's API and cookies are not theirs.
    assert policy["sandbox"] == ["allow-scripts"]
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == ["'none'"]
    assert policy["img-src"] == ["data:"], "no address of the network is asked for"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "query", "method", "status"),
    [
        ("/get-artifact", "path=other.html&run_uuid=1", "GET", 200),
        ("/get-artifact", "path=items/report.html&run_uuid=1", "GET", 200),
        ("/get-artifact", "path=report.html&run_uuid=1&path=x.html", "GET", 200),
        ("/model-versions/get-artifact", "path=report.html&name=toy&version=1", "GET", 200),
        ("/get-artifact", "path=report.html&run_uuid=1", "GET", 403),
        ("/get-artifact", "path=report.html&run_uuid=1", "POST", 200),
    ],
)
def test_any_other_file_stays_a_download(path: str, query: str, method: str, status: int) -> None:
    assert answered(path, query, method, status) == {name.decode(): value.decode() for name, value in DOWNLOAD}
