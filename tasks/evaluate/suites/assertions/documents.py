"""Assertions on JSON in an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
from referencing.jsonschema import EMPTY_REGISTRY

from tasks.evaluate.suites.assertions.answer import Answer
from tasks.evaluate.suites.assertions.base import Kind, NotJson, Wanted, parse_json


def fits(document: Any, schema: Any) -> bool:
    """Whether a document follows a JSON schema; references within the schema only, nothing is fetched."""
    return schema is None or jsonschema.Draft202012Validator(schema, registry=EMPTY_REGISTRY).is_valid(document)


def schema_problem(schema: Any) -> str:
    """What is wrong with a JSON schema, or nothing."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        return f"has a JSON schema that is not one: {error.message}"
    for reference in _references(schema):
        if not _is_there(schema, reference):
            return f"has a JSON schema with a reference that leads nowhere in it: {reference!r}"
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


def _is_there(schema: Any, reference: str) -> bool:
    if not reference.startswith("#"):
        return False
    if reference != "#" and not reference.startswith("#/"):
        return True  # an $anchor; the validator finds it or says so
    for step in (part.replace("~1", "/").replace("~0", "~") for part in reference.split("/")[1:]):
        if not isinstance(schema, dict) or step not in schema:
            return False
        schema = schema[step]
    return True


def _is_json(wanted: Wanted, answer: Answer) -> bool:
    try:
        return fits(parse_json(answer.shown), wanted.value)
    except NotJson:
        return False


def _contains_json(wanted: Wanted, answer: Answer) -> bool:
    decoder, text = json.JSONDecoder(parse_constant=_refuse), answer.shown
    for start in (match.start() for match in re.finditer(r"[{\[]", text)):
        try:
            document, _end = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, NotJson, RecursionError):
            continue
        if fits(document, wanted.value):
            return True
    return False


def _refuse(constant: str) -> Any:
    raise NotJson(constant)


def _lacks(wanted: Wanted) -> str:
    if wanted.value is None:
        return ""
    if not isinstance(wanted.value, (dict, bool)):
        return "needs a JSON schema (an object) as value, or none"
    return schema_problem(wanted.value)


KINDS = {"is-json": Kind(_is_json, _lacks), "contains-json": Kind(_contains_json, _lacks)}
