"""Held text as each model reads it: by its own tokenizer and its own chat template.

A swapped tokenizer or a wrong template leaves the weights unchanged, so it does not show when both models are given
the same token ids. Here each model's tokenizer turns the text into tokens, as an engine would. The two readings are
then aligned by the tokens' text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.drift.held_out import HeldDocument, Turn
from tasks.source.chat_templates import Renderer, TemplateRefuses

SMALLEST_SHARED_VOCABULARY = 0.99
"""Smallest share of production's vocabulary that the candidate must have, by text, for predictions to be comparable."""


class Reading(BaseModel):
    """Differences between the two models' tokens of the held text."""

    model_config = ConfigDict(frozen=True)

    documents: int
    differ: tuple[str, ...]
    """Names of documents that become other tokens with the candidate's tokenizer or template."""
    tokens: int
    """Number of production's tokens."""
    tokens_differ: int
    """Number of production's tokens that the candidate's reading lacks."""
    incomparable: tuple[str, ...]
    """Names of documents that are cut differently, so that next tokens cannot be compared one by one."""
    vocabulary_shared: float
    """Share of production's vocabulary that the candidate has with the same text, 0 to 1."""
    example: str = ""
    """The first difference in words."""


class Window(BaseModel):
    """Tokens that both models read at once."""

    model_config = ConfigDict(frozen=True)

    document: str
    production_ids: tuple[int, ...]
    candidate_ids: tuple[int, ...]
    compared: int
    """Number of last tokens whose predictions are compared; they have the same text in both."""


class Segment(BaseModel):
    """A text to be predicted after a prefix that is only read."""

    model_config = ConfigDict(frozen=True)

    prefix: tuple[int, ...]
    content: tuple[int, ...]


def read_documents(
    documents: Sequence[HeldDocument], production: Any, candidate: Any, context_tokens: int
) -> tuple[list[Window], Reading]:
    """Turn documents into windows.

    Args:
        documents: the held text.
        production: production's tokenizer, of transformers.
        candidate: the candidate's tokenizer.
        context_tokens: the longest window. Plain text is cut into windows without overlap, whose first token is not
            predicted. A conversation's answer keeps as much of the conversation before it as fits.
    """
    with Renderer() as renderer:
        return _read_documents(documents, production, candidate, context_tokens, renderer)


def _read_documents(
    documents: Sequence[HeldDocument], production: Any, candidate: Any, context_tokens: int, renderer: Renderer
) -> tuple[list[Window], Reading]:
    windows: list[Window] = []
    differ: list[str] = []
    incomparable: list[str] = []
    tokens = tokens_differ = 0
    example = ""
    for document in documents:
        candidate_segments = _segments(document, candidate, renderer)
        production_segments = _segments(document, production, renderer)
        production_ids, candidate_ids = _ids(production_segments), _ids(candidate_segments)
        tokens += len(production_ids)
        if production_ids != candidate_ids:
            differ.append(document.name)
            tokens_differ += (Counter(production_ids) - Counter(candidate_ids)).total() or 1
            example = example or _example(document.name, production_segments, candidate_segments, production, candidate)
        if _texts(production_segments, production) != _texts(candidate_segments, candidate):
            incomparable.append(document.name)
            continue
        for production_segment, candidate_segment in zip(production_segments, candidate_segments):
            windows += _windows(document, production_segment, candidate_segment, context_tokens)
    return windows, Reading(
        documents=len(documents),
        differ=tuple(differ),
        tokens=tokens,
        tokens_differ=tokens_differ,
        incomparable=tuple(incomparable),
        vocabulary_shared=shared_vocabulary(production.get_vocab(), candidate.get_vocab()),
        example=example,
    )


def shared_vocabulary(production: dict[str, int], candidate: dict[str, int]) -> float:
    """Share of production's tokens that the candidate has too, under any id, 0 to 1."""
    return sum(token in candidate for token in production) / len(production) if production else 0.0


def _segments(document: HeldDocument, tokenizer: Any, renderer: Renderer) -> list[Segment]:
    if not document.turns:
        # Only the start token: the token that a tokenizer puts at the end marks the end of a conversation.
        start = tokenizer("").input_ids[:1]
        prefix = tuple(start) if start and start[0] == tokenizer.bos_token_id else ()
        return [Segment(prefix=prefix, content=_encode(tokenizer, document.text))]
    return [
        Segment(
            prefix=_encode(tokenizer, render(tokenizer, document.turns[:at], renderer)),
            content=_encode(tokenizer, turn.content),
        )
        for at, turn in enumerate(document.turns)
        if turn.role == "assistant"
    ]


def render(tokenizer: Any, turns: Sequence[Turn], renderer: Renderer | None = None) -> str:
    """Render a conversation as the model's prompt; without a chat template, as plain text.

    Raises:
        ModelUnreadable: The template takes too long or too much memory.
        TemplateRefuses: It takes this conversation neither with a system turn nor without.
    """
    if not tokenizer.chat_template:
        return "".join(f"{turn.role}: {turn.content}\n" for turn in turns) + "assistant: "
    if renderer is None:
        with Renderer() as own:
            return render(tokenizer, turns, own)
    try:
        return _rendered(tokenizer, turns, renderer)
    except TemplateRefuses:
        if len(turns) < 2:
            raise
        # Some templates refuse a system turn; its text is then put before the user's first.
        first, second, *others = turns
        joined = Turn(role="user", content=f"{first.content}\n\n{second.content}")
        return _rendered(tokenizer, [joined, *others], renderer)


def _rendered(tokenizer: Any, turns: Sequence[Turn], renderer: Renderer) -> str:
    return renderer.render(tokenizer, [turn.model_dump() for turn in turns], add_generation_prompt=True)


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def _ids(segments: list[Segment]) -> list[int]:
    return [id for segment in segments for id in (*segment.prefix, *segment.content)]


def _texts(segments: list[Segment], tokenizer: Any) -> list[list[str]]:
    """The predicted tokens, as the vocabulary spells them."""
    return [tokenizer.convert_ids_to_tokens(list(segment.content)) for segment in segments]


def _windows(document: HeldDocument, production: Segment, candidate: Segment, context_tokens: int) -> Iterator[Window]:
    longest = max(len(production.prefix), len(candidate.prefix))
    step = max(context_tokens // 2, 1) if document.turns else max(context_tokens - longest, 2)
    for at in range(0, len(production.content), step):
        end = at + step
        size = len(production.content[at:end])
        compared = size if document.turns else size - 1
        if compared < 1:
            continue
        free_tokens = context_tokens - size
        yield Window(
            document=document.name,
            production_ids=(*_before(document, production, at, free_tokens), *production.content[at:end]),
            candidate_ids=(*_before(document, candidate, at, free_tokens), *candidate.content[at:end]),
            compared=compared,
        )


def _before(document: HeldDocument, segment: Segment, at: int, free_tokens: int) -> tuple[int, ...]:
    if not document.turns:
        return segment.prefix
    before = (*segment.prefix, *segment.content[:at])
    return before[max(len(before) - free_tokens, 0) :]


def _example(name: str, before: list[Segment], after: list[Segment], production: Any, candidate: Any) -> str:
    # A difference in the predicted text says more than one in a template, so it comes first.
    pairs = [(old.content, new.content) for old, new in zip(before, after)]
    pairs += [(old.prefix, new.prefix) for old, new in zip(before, after)]
    old, new = next(pair for pair in pairs if pair[0] != pair[1])
    at = next((n for n, pair in enumerate(zip(old, new)) if pair[0] != pair[1]), min(len(old), len(new)))
    was, now = (_shown(ids[at : at + 4], tokenizer) for ids, tokenizer in ((old, production), (new, candidate)))
    return f"in {name}, {was} becomes {now}"


def _shown(ids: Sequence[int], tokenizer: Any) -> str:
    return f"{tokenizer.decode(list(ids))!r} {list(ids)}" if ids else "the end"
