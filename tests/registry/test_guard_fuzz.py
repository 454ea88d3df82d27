"""Inputs by chance: what the guard passes on has one meaning to it and to MLflow's routers and readers."""

from __future__ import annotations

import json
import re
import string
from typing import Any
from urllib.parse import unquote

from flask import Flask, request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.routing import Map, Rule

from registry.server.contents import check_contents
from registry.server.message import Refused, check_fields, check_path, read_json, read_query, write_json
from registry.server.routes import ROUTES, find
from tests.support.mutation import examples

ROUTER = Map(
    [
        Rule(re.sub(r"\{id\}", "<a>", re.sub(r"\{path\}", "<path:p>", prefixed), count=1).replace("{id}", "<b>"),
             endpoint=route.path, methods=[route.method])
        for route in ROUTES
        for prefixed in {route.path, route.path.replace("/api/", "/ajax-api/", 1)}
    ]
).bind("127.0.0.1")  # fmt: skip
"""The routes on the list, as Flask matches them."""
FLASK = Flask(__name__)
PIECES = st.sampled_from(
    ["/", "//", ".", "..", "/./", "/../", "%2e", "%2E%2e", "%2f", "%5c", "\\", "%00", "%0a", "%25", "%ff", "%C3%A9",
     ";", "?", "#", "%3f", "api", "API", "preview", "a", "1", " ", "+", "~"]
)  # fmt: skip
SAMPLES = [re.sub(r"\{\w+\}", "x1", route.path) for route in ROUTES]
PARTS = st.text(string.printable, max_size=8) | PIECES


@st.composite
def paths(draw: st.DrawFn) -> str:
    """A path of a route with pieces put in, or left out."""
    path = draw(st.sampled_from(SAMPLES)).replace("/api/", draw(st.sampled_from(["/api/", "/ajax-api/"])), 1)
    for _ in range(draw(st.integers(0, 3))):
        at, gone = draw(st.integers(0, len(path))), draw(st.integers(0, 3))
        path = path[:at] + draw(PARTS) + path[at + gone :]
    return path.encode("ascii", "ignore").decode().partition("?")[0]


@examples()
@given(st.sampled_from(["GET", "POST", "PATCH", "PUT", "DELETE"]), paths())
def test_a_path_that_passes_is_the_same_route_to_flask(method: str, raw: str) -> None:
    path = unquote(raw)
    try:
        check_path(path, raw.encode())
    except Refused:
        return
    if route := find(method, path):
        # Neither NotFound nor a redirect to another spelling.
        assert ROUTER.match(path, method)[0] == route.path


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
MESSAGES = st.dictionaries(st.sampled_from(["name", "version", "run_id", "run_uuid", "path", "source", "Name"]), VALUES)
BODIES = st.binary(max_size=200) | st.builds(
    lambda content, cut, extra, codec: json.dumps(content)[cut:].encode(codec) + extra,
    MESSAGES,
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([b"", b"", b" ", b"{}", b"\x00", b"\xff"]),
    st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32-be"]),
)


@examples()
@given(
    BODIES, st.sampled_from(["application/json", "application/json; charset=utf-8", "text/plain", "application/json;x"])
)
def test_a_body_that_passes_is_the_same_message_to_flask(body: bytes, media_type: str) -> None:
    try:
        content = read_json(body, media_type)
        check_fields(content)
        check_contents("/api/2.0/mlflow/runs/set-tag", content)
        passed = write_json(content)
    except Refused:
        return
    with FLASK.test_request_context(data=passed, content_type="application/json", method="DELETE"):
        understood: Any = request.get_json()
        assert request.is_json and understood == content and request.args == {}


@examples()
@given(st.text(st.sampled_from("abn=&;%+[]é2e06 _"), max_size=40).map(str.encode) | st.binary(max_size=40))
def test_a_query_that_passes_is_the_same_to_flask(query: bytes) -> None:
    try:
        fields = read_query(query, frozenset())
    except Refused:
        return
    with FLASK.test_request_context(query_string=query.decode("latin-1")):
        assert {name: request.args.getlist(name) for name in request.args} == {
            name: [value] for name, value in fields.items()
        }
