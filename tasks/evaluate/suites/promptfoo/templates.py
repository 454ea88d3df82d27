"""Renderer of promptfoo's Nunjucks templates with Jinja2, in its sandbox.

The two languages differ. Made equal: how values are written (true, 4, a,b), `x.key` on an object, `| dump`. Refused,
because the result would differ: an undefined variable (Nunjucks writes nothing), an object written without `| dump`,
JavaScript's methods and properties, filters and tags that Jinja2 lacks.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from tasks.evaluate.suites.assertions.base import as_text
from tasks.evaluate.suites.promptfoo.import_log import CannotConvert

NESTED_ROUNDS = 5
"""Rounds in which promptfoo renders variables inside variables."""
PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
ENVIRONMENT_USE = re.compile(r"\{\{[^}]*\benv\b")

Vars = dict[str, Any]


class _Missing(jinja2.StrictUndefined):
    """An undefined variable: it may be tested (`{% if x %}`), but not written."""

    __slots__ = ()
    __bool__ = jinja2.Undefined.__bool__  # type: ignore[assignment]


def _written(value: Any) -> Any:
    """Write a value as Nunjucks does."""
    if isinstance(value, jinja2.Undefined):
        return value
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ",".join(str(_written(part)) for part in value)
    if isinstance(value, dict):
        raise CannotConvert("a template writes an object as text: write `{{ name | dump }}` for JSON")
    return as_text(value)


class _Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox in which objects have only their keys, and none of Python's methods."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict):
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


def _environment() -> _Sandbox:
    environment = _Sandbox(undefined=_Missing, finalize=_written, keep_trailing_newline=True)
    environment.filters["dump"] = lambda value, *_: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return environment


_ENVIRONMENT = _environment()


def render(text: str, variables: Vars) -> str:
    """Render a text with variables.

    Raises:
        CannotConvert: the template needs a feature that Jinja2 lacks, or an undefined variable.
    """
    if "{{" not in text and "{%" not in text and "{#" not in text:
        return text
    try:
        return _ENVIRONMENT.from_string(text).render(variables)
    except jinja2.UndefinedError as error:
        why = "the environment is not read" if ENVIRONMENT_USE.search(text) else error.message
        raise CannotConvert(f"a template cannot be filled: {why}") from None
    except jinja2.TemplateSyntaxError as error:
        raise CannotConvert(f"a template that Jinja2 does not read as Nunjucks does: {error.message}") from None
    except (SecurityError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise CannotConvert(f"a template fails: {error}") from None


def render_all(value: Any, variables: Vars) -> Any:
    """Render every text in lists and objects."""
    if isinstance(value, str):
        return render(value, variables)
    if isinstance(value, list):
        return [render_all(part, variables) for part in value]
    if isinstance(value, dict):
        return {key: render_all(part, variables) for key, part in value.items()}
    return value


def resolve(variables: Vars) -> Vars:
    """Render variables inside variables, as promptfoo does: plain `{{ name }}` only, a few rounds, no final newline.

    Raises:
        CannotConvert: a variable comes from the environment.
    """
    if any(isinstance(value, str) and ENVIRONMENT_USE.search(value) for value in variables.values()):
        raise CannotConvert("a variable comes from the environment, which is not read: write its value")
    found = {name: value.removesuffix("\n") if isinstance(value, str) else value for name, value in variables.items()}
    for _ in range(NESTED_ROUNDS):
        before = dict(found)
        for name, value in before.items():
            if isinstance(value, str):
                found[name] = PLACEHOLDER.sub(lambda match: _fill(match, found), value)
        if found == before:
            break
    return found


def _fill(match: re.Match[str], variables: Vars) -> str:
    value = variables.get(match[1])
    return match[0] if value is None or isinstance(value, (dict, list)) else as_text(value)
