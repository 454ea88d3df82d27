"""Assertions on the tools that a model calls."""

from __future__ import annotations

from typing import Any

from tasks.evaluate.suites.assertions.answer import Answer, ToolCall
from tasks.evaluate.suites.assertions.base import Kind, NotJson, Wanted, is_share, parse_json
from tasks.evaluate.suites.assertions.documents import fits, schema_problem
from tasks.evaluate.suites.assertions.texts import listed

NEEDS_TOOLS = ("is-valid-openai-tools-call", "is-valid-function-call", "is-valid-openai-function-call")
"""Kinds that compare with the schemas of the tools that the model was offered."""


def tools_problem(tools: tuple[dict[str, Any], ...]) -> str:
    """What is wrong with the tools of a question, or nothing.

    Args:
        tools: as OpenAI's API takes them: {"type": "function", "function": {"name": …, "parameters": schema}}.
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
        return fits(parse_json(call.arguments or "{}"), schemas[call.name])
    except NotJson:
        return False


def _all_valid(_: Wanted, answer: Answer) -> bool:
    schemas = _schemas(answer)
    return bool(answer.tool_calls) and all(_is_valid(call, schemas) for call in answer.tool_calls)


def _f1(wanted: Wanted, answer: Answer) -> bool:
    """F1 of the names called against the names expected, as sets (van Rijsbergen 1979; promptfoo's default: 1)."""
    expected, called = set(listed(wanted.value)), {call.name for call in answer.tool_calls}
    score = 2 * len(expected & called) / (len(expected) + len(called))
    return score >= (1.0 if wanted.threshold is None else wanted.threshold)


def _lacks_names(wanted: Wanted) -> str:
    if not isinstance(wanted.value, (str, list)) or not listed(wanted.value):
        return "needs a list of tool names as value"
    return "" if is_share(wanted.threshold) else "needs a threshold between 0 and 1"


def _lacks_nothing(wanted: Wanted) -> str:
    return "" if wanted.value is None else "takes no value: the schemas are those of the item's `tools`"


KINDS = {
    **{kind: Kind(_all_valid, _lacks_nothing) for kind in NEEDS_TOOLS},
    "tool-call-f1": Kind(_f1, _lacks_names),
}
