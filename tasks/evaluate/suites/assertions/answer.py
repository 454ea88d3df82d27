"""What a model gave back, as far as an assertion may look at it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class ToolCall(BaseModel):
    """One call of a tool that the model asked for."""

    model_config = ConfigDict(frozen=True)

    name: str
    arguments: str
    """JSON text, as the model wrote it: it need not be valid."""


class Answer(BaseModel):
    """One answer of a chat model."""

    model_config = ConfigDict(frozen=True)

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    """stop, length, tool_calls, content_filter; empty when the engine does not say."""
    refusal: str = ""
    """The engine's own word that the model refused (OpenAI's `message.refusal`)."""
    latency_seconds: float = 0.0
    tools: tuple[dict[str, Any], ...] = ()
    """The tools that the model was offered, as OpenAI's API takes them."""

    @classmethod
    def of_choice(cls, choice: dict[str, Any], latency_seconds: float) -> Answer:
        """Read a choice of an OpenAI chat completion, or of what looks like one.

        Raises:
            pydantic.ValidationError: it has no text, no tool calls and no refusal.
        """
        read = _Choice.model_validate(choice)
        calls = tuple(ToolCall(name=c.function.name, arguments=c.function.arguments) for c in read.message.calls)
        return cls(
            text=read.message.content or "",
            tool_calls=calls,
            finish_reason=read.finish_reason or "",
            refusal=read.message.refusal or "",
            latency_seconds=latency_seconds,
        )

    @property
    def shown(self) -> str:
        """What text assertions look at: the text or, where there is none, the tool calls as JSON (as in promptfoo)."""
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
            raise ValueError("it has no text, no tool calls and no refusal")
        return self

    @property
    def calls(self) -> tuple[_Call, ...]:
        if self.tool_calls:
            return self.tool_calls
        return (_Call(function=self.function_call),) if self.function_call else ()


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
