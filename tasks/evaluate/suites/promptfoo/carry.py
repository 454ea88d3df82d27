"""One promptfoo assertion as one of ours."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import yaml
from pydantic import ValidationError

from tasks.evaluate.suites.assertions import Assertion, AssertionRefused, assertion_kinds
from tasks.evaluate.suites.assertions.assertion import SET
from tasks.evaluate.suites.assertions.base import as_text
from tasks.evaluate.suites.assertions.unsupported import CODE, FORMATS, JUDGES, OVERLAPS
from tasks.evaluate.suites.promptfoo.files import SCHEME, Folder, read_data, read_text
from tasks.evaluate.suites.promptfoo.ledger import CannotCarry
from tasks.evaluate.suites.promptfoo.templates import Vars, render_all

FIELDS = {"type", "value", "threshold", "weight", "provider", "metric", "assert", "config", "rubricPrompt"}
OF_JUDGES = ("config", "rubricPrompt")
"""Fields that only the assertions have which are refused by name."""
SCHEMAS = ("is-json", "contains-json")
TEXTS = ("equals", "contains", "icontains", "starts-with", "regex", "levenshtein", "bleu", "similar")

GROUP_NAME, BACK_REFERENCE = re.compile(r"\(\?<(?![=!])"), re.compile(r"\\k<(\w+)>")
"""How JavaScript names groups; Python puts a P before the name."""
OLD_NAMES = {"fn:": "javascript", "eval:": "javascript", "grade:": "llm-rubric"}
DEFAULT_THRESHOLDS = {"similar": 0.8, "levenshtein": 0.75, "latency": 0.75}
"""What promptfoo puts where a CSV cell names no threshold (its src/csv.ts)."""


def from_text(expected: str) -> dict[str, Any]:
    """A CSV cell such as `contains: Paris` or `levenshtein(3): Paris` as an assertion; plain text means `equals`."""
    expected = expected.strip()
    for name, kind in OLD_NAMES.items():
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
    """An assertion, or the template of the configuration that it refers to with `$ref`.

    Raises:
        CannotCarry: it is neither.
    """
    if isinstance(raw, dict) and "$ref" in raw:
        found: Any = config
        for step in str(raw["$ref"]).removeprefix("#/").split("/"):
            found = found.get(step) if isinstance(found, dict) else None
        raw = found if isinstance(found, dict) and "$ref" not in found else None
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise CannotCarry("it is no assertion with a `type`, nor a `$ref` to one in this configuration")
    return raw


def carry(raw: Any, variables: Vars, folder: Folder, config: dict[str, Any]) -> Assertion:
    """Carry an assertion over.

    Args:
        raw: as promptfoo's configuration has it.
        variables: the test's, for the templates in it.
        folder: where its files lie.
        config: where its templates stand.

    Raises:
        CannotCarry: there is no such assertion here, or it needs a program, a model or a field that is not known.
    """
    raw = dereference(raw, config)
    kind = raw["type"].removeprefix("not-")
    if kind == SET:
        members = [carry(one, variables, folder, config) for one in raw.get("assert") or []]
        return _made({"type": SET, "assert": members, **_numbers(raw)})
    if kind not in assertion_kinds():
        return _made({"type": raw["type"]})  # refused by name, with what to write instead
    if unknown := sorted(set(raw) - FIELDS) + [field for field in OF_JUDGES if raw.get(field)]:
        raise CannotCarry(f"it has `{unknown[0]}`, which is not carried over")
    value = _value(kind, render_all(raw.get("value"), variables), folder)
    fields = {"type": raw["type"], "value": value, **_numbers(raw)}
    return _made({**fields, "provider": raw["provider"]} if raw.get("provider") is not None else fields)


def metrics_of(raw: Any, config: dict[str, Any]) -> list[str]:
    """The names of promptfoo's metrics in an assertion; they become tags of the item."""
    named = dereference(raw, config)
    inner = [name for one in named.get("assert") or [] for name in metrics_of(one, config)]
    return [*([str(named["metric"])] if named.get("metric") else []), *inner]


def _value(kind: str, value: Any, folder: Folder) -> Any:
    if isinstance(value, list):
        return [_value(kind, part, folder) if isinstance(part, str) else part for part in value]
    if isinstance(value, str) and value.startswith(SCHEME):
        path = folder.one(value)
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
        return yaml.safe_load(text) if text.strip() else None
    except yaml.YAMLError:
        raise CannotCarry(f"its schema is no JSON or YAML: {text[:60]!r}") from None


def _numbers(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: raw[key] for key in ("threshold", "weight") if raw.get(key) is not None}


def _made(fields: dict[str, Any]) -> Assertion:
    try:
        return Assertion.model_validate(fields)
    except AssertionRefused as error:
        raise CannotCarry(f"{error.what} {error.next_step}".removesuffix(" Correct this line of the suite.")) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CannotCarry(f"{field} {json.dumps(first['input'], default=str)[:60]}: {first['msg'].lower()}") from None
