"""An OpenAI chat completion as it comes, and what is wrong with its answer other than being wrong."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.evaluate.scoring.scores import Trouble
from tasks.evaluate.suites.assertions import Answer
from tasks.evaluate.suites.suite import Question

MOST_CHARACTERS_A_TOKEN = 64
"""A count of tokens that makes them longer than this is no count: some proxies always say 0 or 1."""


class _Details(BaseModel):
    reasoning_tokens: int | None = None


class Usage(BaseModel):
    """The engine's count of tokens."""

    completion_tokens: int | None = None
    completion_tokens_details: _Details | None = None


class Completion(BaseModel):
    """The fields of an OpenAI chat completion that are read here."""

    model_config = ConfigDict(extra="ignore")

    choices: list[dict[str, Any]] = Field(min_length=1)
    usage: Usage | None = None


def tokens_of(completion: Completion, answer: Answer) -> int | None:
    """Tokens of thought and answer together; None where the engine's count is missing or cannot be true."""
    tokens = completion.usage.completion_tokens if completion.usage else None
    written = len(answer.text) + len(answer.thought)
    if tokens is None or tokens < 0 or written > tokens * MOST_CHARACTERS_A_TOKEN:
        return None
    return tokens


def thought_tokens_of(completion: Completion, answer: Answer) -> int | None:
    """Tokens of the thought: as the engine counts them, else its share of the text; None where neither is known."""
    details = completion.usage.completion_tokens_details if completion.usage else None
    if details and details.reasoning_tokens:
        return details.reasoning_tokens
    tokens, written = tokens_of(completion, answer), len(answer.shown) + len(answer.thought)
    if not answer.thought:
        return 0
    return None if tokens is None else round(tokens * len(answer.thought) / written)


def trouble_of(question: Question, answer: Answer, completion: Completion) -> Trouble:
    """Say what is wrong with an answer other than being wrong; empty if it is whole."""
    tokens, longest = tokens_of(completion, answer), question.max_tokens + question.thinking_tokens
    says_nothing = not answer.shown.strip() and not answer.refusal
    # Engines that give no reason have cut an answer as long as was asked; one that stops just there gives "stop".
    was_cut = answer.finish_reason == "length" or (
        not answer.finish_reason and tokens is not None and tokens >= longest
    )
    if answer.unfinished_thought or (says_nothing and was_cut and answer.thought):
        return "unfinished thought"
    if was_cut and not (question.may_be_cut and not says_nothing and reached(tokens, longest)):
        return "truncated"
    if says_nothing:
        return "empty"
    if not answer.finish_reason and tokens is None and not answer.tool_calls and not question.may_be_cut:
        return "unknown end"
    return ""


def reached(tokens: int | None, longest: int) -> bool:
    """Whether an answer may have been cut by the item's own limit; one cut far before was cut by another."""
    return tokens is None or tokens >= longest
