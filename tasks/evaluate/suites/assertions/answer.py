"""A model's answer, with the fields that assertions read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from tasks.evaluate.suites.thoughts import Parted, part

CUT = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "max_length", "token_limit"})
"""Finish reasons of engines and providers that mean: cut off at the longest answer (lower case)."""


class ToolCall(BaseModel):
    """One tool call of the model."""

    model_config = ConfigDict(frozen=True)

    name: str
    arguments: str
    """JSON text as the model wrote it, possibly invalid."""


class Answer(BaseModel):
    """One answer of a chat model."""

    model_config = ConfigDict(frozen=True)

    text: str = ""
    """What follows the model's thought."""
    thought: str = ""
    """What the model wrote before its answer, for itself; no assertion sees it."""
    unfinished_thought: bool = False
    """Whether the model's text ended inside its thought, so that there is no answer."""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    """stop, length, tool_calls, content_filter; empty if the engine gives none."""
    refusal: str = ""
    """The engine's own note of a refusal (OpenAI's `message.refusal`)."""
    latency_seconds: float = 0.0
    tools: tuple[dict[str, Any], ...] = ()
    """The tools offered to the model, in the form of OpenAI's API."""

    @classmethod
    def from_choice(
        cls,
        choice: dict[str, Any],
        latency_seconds: float,
        *,
        markers: Sequence[str] | None = None,
        family: str = "",
        opened_by_prompt: bool = False,
    ) -> Answer:
        """Read a choice of an OpenAI chat completion.

        Args:
            choice: one of the completion's `choices`.
            latency_seconds: from the request to the end of the answer.
            markers, family, opened_by_prompt: of the thoughts, as for `thoughts.part`.

        Raises:
            pydantic.ValidationError: the choice has no text, no thought, no tool calls and no refusal, or the engine
                says that it failed.
        """
        parsed = _Choice.model_validate(choice)
        message, content = parsed.message, parsed.message.content or ""
        # Where the engine took the thought out, the prompt's opening marker is no part of the text any more.
        parted = part(content, markers, family=family, opened_by_prompt=opened_by_prompt and not message.apart)
        if opened_by_prompt and not content and message.calls:
            parted = Parted("")
        calls = tuple(ToolCall(name=call.function.name, arguments=call.function.arguments) for call in message.calls)
        return cls(
            text=parted.answer,
            thought="\n".join(filter(None, (message.apart, parted.thought))),
            unfinished_thought=parted.unfinished,
            # A call inside a thought that never ended was only thought about.
            tool_calls=() if parted.unfinished else calls,
            finish_reason=parsed.finish_reason or "",
            refusal=message.refusal or "",
            latency_seconds=latency_seconds,
        )

    @property
    def shown(self) -> str:
        """The text for text assertions; without a text, the tool calls as JSON (as in promptfoo)."""
        if self.text or not self.tool_calls:
            return self.text
        calls = [{"type": "function", "function": call.model_dump()} for call in self.tool_calls]
        return json.dumps(calls, ensure_ascii=False)


class _Function(BaseModel):
    name: str
    arguments: str = "{}"


class _Call(BaseModel):
    function: _Function


class _Message(BaseModel):
    content: str | None = None
    apart: str = ""
    """The thought as the engine took it out: `reasoning_content`, `reasoning`, `thinking`, or parts of `content`."""
    refusal: str | None = None
    tool_calls: tuple[_Call, ...] | None = None
    function_call: _Function | None = None

    @model_validator(mode="before")
    @classmethod
    def _take_thought(cls, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        # vLLM gives one thought under two names: the longest is the whole of it.
        named = [message.get(name) for name in ("reasoning_content", "reasoning", "thinking")]
        apart, content = (
            max((text for text in named if isinstance(text, str)), key=len, default=""),
            message.get("content"),
        )
        if isinstance(content, list):
            thoughts = [_part_text(part, "thinking", "reasoning") for part in content]
            apart = apart or "\n".join(filter(None, thoughts))
            content = "".join(_part_text(part, "text", "output_text") for part in content)
        return {**message, "content": content, "apart": apart}

    @model_validator(mode="after")
    def _says_something(self) -> _Message:
        if self.content is None and self.refusal is None and not self.calls and not self.apart:
            raise ValueError("the message has no text, no thought, no tool calls and no refusal")
        return self

    @property
    def calls(self) -> tuple[_Call, ...]:
        if self.tool_calls:
            return self.tool_calls
        return (_Call(function=self.function_call),) if self.function_call else ()


def _part_text(part: Any, *types: str) -> str:
    """The text of one part of a `content` that is a list, if the part is of one of these types."""
    if not isinstance(part, dict) or part.get("type") not in types:
        return ""
    found = next((part[name] for name in ("text", *types) if name in part), "")
    if isinstance(found, list):  # Mistral nests the parts of a thought
        return "".join(_part_text(inner, "text") for inner in found)
    return found if isinstance(found, str) else ""


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None

    @field_validator("finish_reason")
    @classmethod
    def _in_one_spelling(cls, reason: str | None) -> str | None:
        lower = (reason or "").lower()
        if lower in ("error", "abort"):
            raise ValueError("the engine ended the answer with an error")
        return "length" if lower in CUT else reason
