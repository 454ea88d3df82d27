"""Chat templates of a release: rendered only in a child process with limits, and tried before the release is admitted.

Jinja's sandbox keeps a template from Python's objects. It limits neither loops nor the size of texts, so one line of a
publisher can stop a server or take all memory. Engines render the same template for every request, without limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from weighbridge.errors import ModelUnreadable
from weighbridge.untrusted import Limits, Sandbox, Unfinished

LIMITS = Limits(seconds=10, memory_bytes=512 * 2**20, output_bytes=4 * 2**20)
"""Real templates take milliseconds for the longest probe, even on a busy machine."""
MAX_TEMPLATE_BYTES = 2**20
"""Of one template; the longest known one has 30 kB."""
MAX_RENDERED = 2**21
"""Characters of a rendered probe; the longest probe has 200,000."""
MAX_NUMBER = 10_000_000
"""Largest number in a template; real ones count turns and hold dates such as 20250101."""
MAX_COUNTED_ROUNDS = 1_000_000
"""Rounds of nested loops over constant ranges."""

_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
_CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"town": "Bern"}}}


class TemplateRefuses(Exception):
    """The template raised an error for this conversation, as some do for a system message."""


class Probe(NamedTuple):
    """One conversation with which templates are tried."""

    name: str
    messages: list[dict[str, Any]]
    variables: dict[str, Any]


def probes() -> Iterator[Probe]:
    """Conversations of every shape that an engine passes on: empty, long, many turns, tools, parts, thinking."""
    question, prompt = {"role": "user", "content": "Hello"}, {"add_generation_prompt": True}
    many = [{"role": ("user", "assistant")[turn % 2], "content": f"turn {turn}"} for turn in range(201)]
    called = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
    result = {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": "rain"}
    yield Probe("one question", [question], prompt)
    yield Probe("an empty question", [{"role": "user", "content": ""}], prompt)
    yield Probe("a system message", [{"role": "system", "content": "Be brief."}, question], prompt)
    yield Probe("a long question", [{"role": "user", "content": "lorem ipsum {{ }} {% %}\n" * 8000}], prompt)
    yield Probe("many turns", many, prompt)
    yield Probe("tools", [question], {**prompt, "tools": [_TOOL] * 16})
    yield Probe("a tool's result", [question, called, result], {**prompt, "tools": [_TOOL]})
    yield Probe("parts", [{"role": "user", "content": [{"type": "text", "text": "Hello"}] * 50}], prompt)
    yield Probe("an answer", [question, {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."}], {})
    yield Probe("thinking", [question], {**prompt, "enable_thinking": True, "documents": [{"title": "a", "text": "b"}]})
    yield Probe("no message", [], prompt)


def template_flaws(templates: Mapping[str, str], tokens: Mapping[str, str]) -> list[str]:
    """Try a release's templates, and return why one of them cannot be served.

    Args:
        templates: By name.
        tokens: Special tokens by role, as templates know them.
    """
    flaws = []
    with Sandbox(LIMITS) as sandbox:
        for name, template in templates.items():
            which = "chat template" if name == "default" else f"chat template {name!r}"
            if len(template) > MAX_TEMPLATE_BYTES:
                flaws.append(f"its {which} has {len(template):,} characters, more than {MAX_TEMPLATE_BYTES:,}")
                continue
            try:
                flaw = sandbox.call(try_template, template, dict(tokens))
            except Unfinished as error:
                flaw = f"cannot be tried: {error}" if error.outcome == "raised" else f"has no end: {error}"
            if flaw:
                flaws.append(f"its {which} {flaw}")
    return flaws


class Renderer:
    """Renders templates in a child process; a context manager."""

    def __init__(self) -> None:
        self._sandbox = Sandbox(LIMITS)  # as they are now

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._sandbox.__exit__(*exception)

    def render(self, tokenizer: Any, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """Render a conversation as transformers' `apply_chat_template(…, tokenize=False)` does.

        Args:
            tokenizer: Of transformers.
            messages: The conversation.
            variables: As that function takes them.

        Raises:
            TemplateRefuses: The template does not take this conversation.
            ModelUnreadable: It takes too long or too much memory.
        """
        template = tokenizer.chat_template
        if not isinstance(template, str):
            template = tokenizer.get_chat_template()
        known = {name: str(token) for name, token in getattr(tokenizer, "special_tokens_map", {}).items()}
        try:
            answer = self._sandbox.call(render, template, [dict(turn) for turn in messages], {**known, **variables})
        except Unfinished as error:
            if error.outcome == "raised":
                raise TemplateRefuses(str(error)) from None
            raise ModelUnreadable(
                f"The model's chat template has no end: {error}.", "Choose another release, or tell its publisher."
            ) from None
        return str(answer)


# --- in the child ------------------------------------------------------------------------


def render(template: str, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str:
    """Render a conversation; runs in the child."""
    return str(_compiled(template).render(messages=messages, **{"tools": None, "documents": None, **variables}))


def try_template(template: str, tokens: dict[str, str]) -> str:
    """Render every probe; return what is wrong with the template, or nothing. Runs in the child."""
    import jinja2
    from jinja2.exceptions import SecurityError

    try:
        if flaw := _counted(_environment().parse(template)):
            return flaw
        _compiled(template)
    except jinja2.TemplateSyntaxError as error:
        return f"is no Jinja: {error.message}"
    rendered = 0
    for probe in probes():
        try:
            text = render(template, probe.messages, {**tokens, **probe.variables})
        except SecurityError as error:
            return f"reaches for Python's objects: {error}"
        except (MemoryError, RecursionError):
            raise
        except Exception:
            # Templates refuse conversations that they are not made for; one must be taken.
            continue
        if len(text) > MAX_RENDERED:
            return f"makes {len(text):,} characters of {probe.name}"
        text.encode()
        rendered += 1
    return "" if rendered else "takes no conversation, not even one question"


def _counted(tree: Any) -> str:
    """What a template does by large numbers, which a probe need not reach: powers, long texts, nested ranges."""
    from jinja2 import nodes

    if tree.find(nodes.Pow):
        return "raises a number to a power, which no prompt needs"
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, (int, float)) and abs(constant.value) > MAX_NUMBER:
            return f"has the number {str(constant.value)[:20]}, which no prompt needs"
    for loop in tree.find_all(nodes.For):
        if _rounds(loop, nodes) > MAX_COUNTED_ROUNDS:
            return f"has loops over more than {MAX_COUNTED_ROUNDS:,} rounds"
    return ""


def _rounds(loop: Any, nodes: Any) -> int:
    """Rounds of a loop over a constant range, times those of the longest one in it."""
    rounds, called = 1, loop.iter
    if isinstance(called, nodes.Call) and isinstance(called.node, nodes.Name) and called.node.name == "range":
        numbers = [abs(int(part.value)) for part in called.args if isinstance(part, nodes.Const)]
        rounds = max(numbers, default=1)
    inner = [_rounds(part, nodes) for body in loop.body for part in body.find_all(nodes.For)]
    inner += [_rounds(body, nodes) for body in loop.body if isinstance(body, nodes.For)]
    return rounds * max(inner, default=1)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    return _environment().from_string(template)


@lru_cache(maxsize=1)
def _environment() -> Any:
    """The environment of transformers 5 (`utils/chat_template_utils.py`), whose import takes a second.

    tests/source/test_chat_templates.py compares the two.
    """
    import jinja2
    import jinja2.ext
    from jinja2 import nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}`, which marks the assistant's tokens for training, and changes no text."""

        tags = {"generation"}  # noqa: RUF012 - as the base class declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment
