"""A candidate's report as a whole page: MLflow sends every file as a download, and shows it in a narrow pane.

The report is a file of a run, which a builder may replace. So its page is a sandbox with an origin of its own: its
scripts reach neither MLflow nor any other address, and forms, frames and links out of it do nothing.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Scope, Send

PATH, REPORT = "/get-artifact", "report.html"
POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def as_page(scope: Scope, send: Send) -> Send:
    """Return a `send` that lets a browser show the report of a run; any other answer is sent as it is.

    Args:
        scope: The request, as the guard admitted it.
        send: Takes the answer.
    """
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    if scope["method"] != "GET" or scope["path"] != PATH or query.get("path") != [REPORT]:
        return send

    async def send_page(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            headers = MutableHeaders(raw=[*message["headers"]])
            headers["content-type"] = "text/html; charset=utf-8"
            headers["content-disposition"] = "inline"
            headers["content-security-policy"] = POLICY
            headers["referrer-policy"] = "no-referrer"
            headers["x-content-type-options"] = "nosniff"
            message = {**message, "headers": headers.raw}
        await send(message)

    return send_page
