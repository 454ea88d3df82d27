"""Assertions on JSON documents in an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
from referencing.jsonschema import EMPTY_REGISTRY

from tasks.evaluate.suites.assertions.answer import Answer
from tasks.evaluate.suites.assertions.base import AssertionKind, AssertionSpec, NotJson, parse_json


def matches_schema(document: Any, schema: Any) -> bool:
    """Whether a document matches a JSON schema; references outside the schema are never fetched."""
    return schema is None or jsonschema.Draft202012Validator(schema, registry=EMPTY_REGISTRY).is_valid(document)


def schema_problem(schema: Any) -> str:
    """Say what is wrong with a JSON schema; empty if nothing is."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        return f"has an invalid JSON schema: {error.message}"
    for reference in _references(schema):
        if not _is_defined(schema, reference):
            return f"has a JSON schema with a reference that it does not define: {reference!r}"
    return ""


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _is_defined(schema: Any, reference: str) -> bool:
    if not reference.startswith("#"):
        return False
    if reference != "#" and not reference.startswith("#/"):
        return True  # an $anchor, which the validator checks
    for step in (part.replace("~1", "/").replace("~0", "~") for part in reference.split("/")[1:]):
        if not isinstance(schema, dict) or step not in schema:
            return False
        schema = schema[step]
    return True


def _is_json(spec: AssertionSpec, answer: Answer) -> bool:
    try:
        return matches_schema(parse_json(answer.shown), spec.value)
    except NotJson:
        return False


def _contains_json(spec: AssertionSpec, answer: Answer) -> bool:
    decoder, text = json.JSONDecoder(parse_constant=_refuse), answer.shown
    for start in (match.start() for match in re.finditer(r"[{\[]", text)):
        try:
            document, _end = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, NotJson, RecursionError):
            continue
        if matches_schema(document, spec.value):
            return True
    return False


def _refuse(constant: str) -> Any:
    raise NotJson(constant)


def _schema_value_problem(spec: AssertionSpec) -> str:
    if spec.value is None:
        return ""
    if not isinstance(spec.value, (dict, bool)):
        return "needs a JSON schema (an object) as value, or none"
    return schema_problem(spec.value)


KINDS = {
    "is-json": AssertionKind(_is_json, _schema_value_problem, text_only=True),
    "contains-json": AssertionKind(_contains_json, _schema_value_problem, text_only=True),
}
