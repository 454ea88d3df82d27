"""A model's answer, with the fields that assertions read."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


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
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    """stop, length, tool_calls, content_filter; empty if the engine gives none."""
    refusal: str = ""
    """The engine's own note of a refusal (OpenAI's `message.refusal`)."""
    latency_seconds: float = 0.0
    tools: tuple[dict[str, Any], ...] = ()
    """The tools offered to the model, in the form of OpenAI's API."""

    @classmethod
    def from_choice(cls, choice: dict[str, Any], latency_seconds: float) -> Answer:
        """Read a choice of an OpenAI chat completion.

        Raises:
            pydantic.ValidationError: the choice has no text, no tool calls and no refusal.
        """
        parsed = _Choice.model_validate(choice)
        calls = tuple(
            ToolCall(name=call.function.name, arguments=call.function.arguments) for call in parsed.message.calls
        )
        return cls(
            text=parsed.message.content or "",
            tool_calls=calls,
            finish_reason=parsed.finish_reason or "",
            refusal=parsed.message.refusal or "",
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
    refusal: str | None = None
    tool_calls: tuple[_Call, ...] | None = None
    function_call: _Function | None = None

    @model_validator(mode="after")
    def _says_something(self) -> _Message:
        if self.content is None and self.refusal is None and not self.calls:
            raise ValueError("the message has no text, no tool calls and no refusal")
        return self

    @property
    def calls(self) -> tuple[_Call, ...]:
        if self.tool_calls:
            return self.tool_calls
        return (_Call(function=self.function_call),) if self.function_call else ()


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
