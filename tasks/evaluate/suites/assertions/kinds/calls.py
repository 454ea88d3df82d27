"""Assertions on the tool calls of an answer."""

from __future__ import annotations

from typing import Any

from tasks.evaluate.suites.assertions.answer import Answer, ToolCall
from tasks.evaluate.suites.assertions.base import AssertionKind, AssertionSpec, NotJson, is_share, parse_json
from tasks.evaluate.suites.assertions.kinds.documents import matches_schema, schema_problem
from tasks.evaluate.suites.assertions.kinds.texts import as_list

CALL_KINDS = ("is-valid-openai-tools-call", "is-valid-function-call", "is-valid-openai-function-call")
"""Kinds that check calls against the schemas of the offered tools; promptfoo has three names for it."""


def tools_problem(tools: tuple[dict[str, Any], ...]) -> str:
    """Say what is wrong with the tools of a question; empty if nothing is.

    Args:
        tools: in the form of OpenAI's API: {"type": "function", "function": {"name": …, "parameters": schema}}.
    """
    for tool in tools:
        function = tool.get("function")
        if (
            tool.get("type") != "function"
            or not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
        ):
            return 'a tool must be {"type": "function", "function": {"name": …, "parameters": …}}'
        if problem := schema_problem(function.get("parameters", {})):
            return f"the tool {function['name']!r} {problem}"
    return ""


def _schemas(answer: Answer) -> dict[str, Any]:
    return {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in answer.tools}


def _is_valid(call: ToolCall, schemas: dict[str, Any]) -> bool:
    if call.name not in schemas:
        return False
    try:
        return matches_schema(parse_json(call.arguments or "{}"), schemas[call.name])
    except NotJson:
        return False


def _all_valid(_: AssertionSpec, answer: Answer) -> bool:
    schemas = _schemas(answer)
    return bool(answer.tool_calls) and all(_is_valid(call, schemas) for call in answer.tool_calls)


def _f1(spec: AssertionSpec, answer: Answer) -> bool:
    """F1 of the names called against the names expected, as sets (van Rijsbergen 1979; promptfoo's default: 1)."""
    expected, called = set(as_list(spec.value)), {call.name for call in answer.tool_calls}
    score = 2 * len(expected & called) / (len(expected) + len(called))
    return score >= (1.0 if spec.threshold is None else spec.threshold)


def _names_problem(spec: AssertionSpec) -> str:
    if not isinstance(spec.value, (str, list)) or not as_list(spec.value):
        return "needs a list of tool names as value"
    return "" if is_share(spec.threshold) else "needs a threshold between 0 and 1"


def _value_problem(spec: AssertionSpec) -> str:
    return "" if spec.value is None else "takes no value: the schemas are those of the item's `tools`"


KINDS = {
    **{kind: AssertionKind(_all_valid, _value_problem, needs_tools=True) for kind in CALL_KINDS},
    "tool-call-f1": AssertionKind(_f1, _names_problem),
}
