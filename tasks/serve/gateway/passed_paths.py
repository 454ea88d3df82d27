"""The paths that reach an engine, from the engines' own lists (`tasks/engines/NAME_endpoints.yaml`).

Envoy compares whole paths, after it has removed `..`, double slashes and the encoding of plain characters, and refuses
encoded slashes. So whatever a client writes, what an engine gets is a path of a list. All lists together pass: what one
engine has under a path, another has not at all, and no list refuses what another one passes (a test).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tasks.engines import Counted, engine, engine_names
from tasks.serve.gateway.error_responses import error_answer

LINE, NAME = "(/[a-z0-9-]+)?", "[A-Za-z0-9_.-]+"


def refusals() -> list[dict[str, Any]]:
    """Routes that answer every request that no engine may get; the others are matched after these.

    GET and POST are not told apart: an engine that has a path for one of them refuses the other by itself.
    """
    nothing = "Nothing here: no engine has this address, or it is not for clients. Ask below /v1."
    wrong = error_answer(405, "This address does not take this method.", "method_not_allowed")
    packed = "The body's content-encoding is not known here: send it plain or as gzip."
    encoding = {"name": "content-encoding"}
    is_packed = [
        {**encoding, "present_match": True},
        {**encoding, "string_match": {"exact": "identity", "ignore_case": True}, "invert_match": True},
    ]
    return [
        {"match": {"prefix": "/", "headers": is_packed}, **error_answer(415, packed, "unsupported_encoding")},
        {"match": {"prefix": "/", "headers": _unknown_path()}, **error_answer(404, nothing, "not_found")},
        {"match": {"prefix": "/", "headers": [{**method_is("POST", "GET"), "invert_match": True}]}, **wrong},
    ]


def counted_paths() -> dict[str, Counted]:
    """How each path is counted; paths with a name in them are counted by usage."""
    return {path: how for (_, path), how in _operations().items() if "{" not in path}


def method_is(*methods: str) -> dict[str, Any]:
    """Condition on a request's method."""
    return {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(methods)}}}


def _unknown_path() -> list[dict[str, Any]]:
    """Conditions that hold together for a path that no list has.

    One for each path: Envoy takes expressions of 100 instructions at most.
    """
    paths = sorted({path for _, path in _operations()})
    return [
        {"name": ":path", "string_match": {"safe_regex": {"regex": _expression(path)}}, "invert_match": True}
        for path in paths
    ]


def _expression(path: str) -> str:
    return rf"{LINE}{re.escape(path).replace(re.escape('{id}'), NAME)}(\?.*)?"


@cache
def _operations() -> dict[tuple[str, str], Counted]:
    return {
        (method, path): how
        for name in engine_names()
        for operation, how in engine(name).endpoints.passes.items()
        for method, path in (operation.split(" "),)
    }
