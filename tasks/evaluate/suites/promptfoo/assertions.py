"""Conversion of promptfoo's assertions."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from pydantic import ValidationError

from tasks.evaluate.suites.assertions import Assertion, AssertionRefused, assertion_kinds
from tasks.evaluate.suites.assertions.assertion import SET
from tasks.evaluate.suites.assertions.base import as_text
from tasks.evaluate.suites.assertions.unsupported import CODE, FORMATS, JUDGES, OVERLAPS
from tasks.evaluate.suites.promptfoo.files import SCHEME, Folder, read_data, read_text
from tasks.evaluate.suites.promptfoo.import_log import CannotConvert
from tasks.evaluate.suites.promptfoo.templates import Vars, render_all
from weighbridge.documents import parse_yaml
from weighbridge.errors import DocumentInvalid
from weighbridge.validation import fault_of, field_of

FIELDS = {"type", "value", "threshold", "weight", "provider", "metric", "assert", "config", "rubricPrompt"}
JUDGE_FIELDS = ("config", "rubricPrompt")
"""Fields of judge assertions, which are not supported."""
SCHEMAS = ("is-json", "contains-json")
TEXTS = ("equals", "contains", "icontains", "starts-with", "regex", "levenshtein", "bleu", "similar")

GROUP_NAME, BACK_REFERENCE = re.compile(r"\(\?<(?![=!])"), re.compile(r"\\k<(\w+)>")
"""JavaScript's syntax of named groups; Python has a P before the name."""
LEGACY_PREFIXES = {"fn:": "javascript", "eval:": "javascript", "grade:": "llm-rubric"}
DEFAULT_THRESHOLDS = {"similar": 0.8, "levenshtein": 0.75, "latency": 0.75}
"""promptfoo's thresholds of CSV cells that name none (its src/csv.ts)."""


def parse_cell(expected: str) -> dict[str, Any]:
    """Parse a CSV cell such as `contains: Paris` or `levenshtein(3): Paris`; plain text means `equals`."""
    expected = expected.strip()
    for name, kind in LEGACY_PREFIXES.items():
        if expected.startswith(name):
            return {"type": kind, "value": expected.removeprefix(name)}
    if expected.startswith(SCHEME):
        return {"type": "python" if ".py" in expected else "javascript", "value": expected}
    match = _cell_pattern().fullmatch(expected)
    if not match:
        return {"type": "equals", "value": expected}
    kind = match["type"].removeprefix("not-")
    threshold = float(match["threshold"]) if match["threshold"] else DEFAULT_THRESHOLDS.get(kind)
    value = (match["value"] or "").strip() or None
    return {"type": match["type"], "value": value, **({} if threshold is None else {"threshold": threshold})}


@cache
def _cell_pattern() -> re.Pattern[str]:
    unsupported = (*CODE, *JUDGES, *FORMATS, *OVERLAPS, "cost", "perplexity", "perplexity-score")
    longest_first = sorted((*assertion_kinds(), *unsupported), key=len, reverse=True)
    names = "|".join(map(re.escape, longest_first))
    return re.compile(rf"(?P<type>(?:not-)?(?:{names}))(?:\((?P<threshold>[\d.]+)\))?(?::(?P<value>.*))?", re.S)


def dereference(raw: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Return an assertion, or the template of the configuration that its `$ref` names.

    Raises:
        CannotConvert: it is neither.
    """
    if isinstance(raw, dict) and "$ref" in raw:
        found: Any = config
        for step in str(raw["$ref"]).removeprefix("#/").split("/"):
            found = found.get(step) if isinstance(found, dict) else None
        raw = found if isinstance(found, dict) and "$ref" not in found else None
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise CannotConvert("it is no assertion with a `type`, nor a `$ref` to one in this configuration")
    return raw


def convert_assertion(raw: Any, variables: Vars, folder: Folder, config: dict[str, Any]) -> Assertion:
    """Convert an assertion.

    Args:
        raw: the assertion in promptfoo's configuration.
        variables: the test's variables, for templates in the assertion.
        folder: the folder of its files.
        config: the configuration, with assertion templates.

    Raises:
        CannotConvert: the assertion is not supported, or needs a program, a model or an unknown field.
    """
    raw = dereference(raw, config)
    kind = raw["type"].removeprefix("not-")
    if kind == SET:
        members = [convert_assertion(member, variables, folder, config) for member in raw.get("assert") or []]
        return _validate({"type": SET, "assert": members, **_number_fields(raw)})
    if kind not in assertion_kinds():
        return _validate({"type": raw["type"]})  # refused, with an alternative
    if unknown := sorted(set(raw) - FIELDS) + [field for field in JUDGE_FIELDS if raw.get(field)]:
        raise CannotConvert(f"it has `{unknown[0]}`, which is not imported")
    value = _value(kind, render_all(raw.get("value"), variables), folder)
    fields = {"type": raw["type"], "value": value, **_number_fields(raw)}
    return _validate({**fields, "provider": raw["provider"]} if raw.get("provider") is not None else fields)


def metric_names(raw: Any, config: dict[str, Any]) -> list[str]:
    """Return the names of promptfoo's metrics in an assertion; they become tags of the item."""
    assertion = dereference(raw, config)
    inner = [name for member in assertion.get("assert") or [] for name in metric_names(member, config)]
    return [*([str(assertion["metric"])] if assertion.get("metric") else []), *inner]


def _value(kind: str, value: Any, folder: Folder) -> Any:
    if isinstance(value, list):
        return [_value(kind, part, folder) if isinstance(part, str) else part for part in value]
    if isinstance(value, str) and value.startswith(SCHEME):
        path = folder.find_file(value)
        structured = kind in (*SCHEMAS, "equals", "word-count") and path.suffix in (".json", ".yaml", ".yml")
        return read_data(path) if structured else read_text(path).strip()
    if kind in SCHEMAS and isinstance(value, str):
        return _schema(value)
    if kind == "word-count" and isinstance(value, dict):
        return {key: int(number) if str(number).isdigit() else number for key, number in value.items()}
    if kind == "regex" and isinstance(value, str):
        return BACK_REFERENCE.sub(r"(?P=\1)", GROUP_NAME.sub("(?P<", value))
    return as_text(value) if kind in TEXTS and isinstance(value, (bool, int, float)) else value


def _schema(text: str) -> Any:
    try:
        return parse_yaml(text, "") if text.strip() else None
    except DocumentInvalid:
        raise CannotConvert(f"its schema is neither JSON nor YAML: {text[:60]!r}") from None


def _number_fields(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: raw[key] for key in ("threshold", "weight") if raw.get(key) is not None}


def _validate(fields: dict[str, Any]) -> Assertion:
    try:
        return Assertion.model_validate(fields)
    except AssertionRefused as error:
        reason = f"{error.what} {error.next_step}".removesuffix(" Correct this line of the suite.")
        raise CannotConvert(reason) from None
    except ValidationError as error:
        first = error.errors()[0]
        shown = json.dumps(first["input"], default=str)[:60]
        raise CannotConvert(f"{field_of(first)} {shown}: {fault_of(first)}") from None
