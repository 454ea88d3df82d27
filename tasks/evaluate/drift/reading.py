"""How two models read the same text: each by its own tokenizer and its own chat template.

A swapped tokenizer or a wrong template leaves the weights as they were, so they cannot show when both models are
given the same token ids. Here each side turns the text into tokens itself, the way an engine would, and the two are
lined up again by what the tokens say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.drift.held_out import HeldDocument, Turn

SMALLEST_SHARED_VOCABULARY = 0.99
"""Of production's tokens the candidate must know so many, by their text, or the two are predictions of other things."""


class Reading(BaseModel):
    """What the two tokenizers and templates made of the held text."""

    model_config = ConfigDict(frozen=True)

    documents: int
    differ: tuple[str, ...]
    """Documents that become other tokens with the candidate's tokenizer or template."""
    tokens: int
    """Of production's reading."""
    tokens_differ: int
    """Of these, how many the candidate's reading does not have."""
    incomparable: tuple[str, ...]
    """Documents that are cut into other pieces, so that next tokens cannot be compared one by one."""
    vocabulary_shared: float
    """Share of production's tokens that the candidate knows by the same text, 0 to 1."""
    example: str = ""
    """The first difference in words."""


class Window(BaseModel):
    """Tokens that both models read at once."""

    model_config = ConfigDict(frozen=True)

    document: str
    production_ids: tuple[int, ...]
    candidate_ids: tuple[int, ...]
    compared: int
    """The last so many tokens of both are the same pieces of text, and their predictions are compared."""


class Piece(BaseModel):
    """A text to be predicted after a beginning that is only read."""

    model_config = ConfigDict(frozen=True)

    beginning: tuple[int, ...]
    content: tuple[int, ...]


def read_documents(
    documents: Sequence[HeldDocument], production: Any, candidate: Any, context_tokens: int
) -> tuple[list[Window], Reading]:
    """Turn documents into windows.

    Args:
        documents: the held text.
        production, candidate: tokenizers of transformers.
        context_tokens: the longest window. Plain text is cut into windows without overlap, of which the first
            token is given; a conversation's answer keeps as much before it as fits.
    """
    windows: list[Window] = []
    differ: list[str] = []
    incomparable: list[str] = []
    tokens = tokens_differ = 0
    example = ""
    for document in documents:
        ours, theirs = _pieces(document, candidate), _pieces(document, production)
        whole_theirs, whole_ours = _ids(theirs), _ids(ours)
        tokens += len(whole_theirs)
        if whole_theirs != whole_ours:
            differ.append(document.name)
            tokens_differ += (Counter(whole_theirs) - Counter(whole_ours)).total() or 1
            example = example or _example(document.name, theirs, ours, production, candidate)
        if _texts(theirs, production) != _texts(ours, candidate):
            incomparable.append(document.name)
            continue
        for left, right in zip(theirs, ours):
            windows += _windows(document, left, right, context_tokens)
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
    """Share of production's tokens that the candidate has too, under whatever number."""
    return sum(token in candidate for token in production) / len(production) if production else 0.0


def _pieces(document: HeldDocument, tokenizer: Any) -> list[Piece]:
    if not document.turns:
        # Only the token of the beginning: what a tokenizer puts at the end is for the end of a conversation.
        start = tokenizer("").input_ids[:1]
        beginning = tuple(start) if start and start[0] == tokenizer.bos_token_id else ()
        return [Piece(beginning=beginning, content=_encode(tokenizer, document.text))]
    return [
        Piece(
            beginning=_encode(tokenizer, render(tokenizer, document.turns[:at])),
            content=_encode(tokenizer, turn.content),
        )
        for at, turn in enumerate(document.turns)
        if turn.role == "assistant"
    ]


def render(tokenizer: Any, turns: Sequence[Turn]) -> str:
    """A conversation as the model is given it before it answers; without a template, as plain text."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return "".join(f"{turn.role}: {turn.content}\n" for turn in turns) + "assistant: "
    try:
        return _rendered(tokenizer, turns)
    except TemplateError:
        # Some templates refuse a system turn; what it says then begins the user's first.
        first, second, *rest = turns
        return _rendered(tokenizer, [Turn(role="user", content=f"{first.content}\n\n{second.content}"), *rest])


def _rendered(tokenizer: Any, turns: Sequence[Turn]) -> str:
    messages = [turn.model_dump() for turn in turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def _ids(pieces: list[Piece]) -> list[int]:
    return [id for piece in pieces for id in (*piece.beginning, *piece.content)]


def _texts(pieces: list[Piece], tokenizer: Any) -> list[list[str]]:
    """What is predicted, as the vocabulary spells it."""
    return [tokenizer.convert_ids_to_tokens(list(piece.content)) for piece in pieces]


def _windows(document: HeldDocument, production: Piece, candidate: Piece, context_tokens: int) -> Iterator[Window]:
    longest = max(len(production.beginning), len(candidate.beginning))
    step = max(context_tokens // 2, 1) if document.turns else max(context_tokens - longest, 2)
    for at in range(0, len(production.content), step):
        end = at + step
        size = len(production.content[at:end])
        compared = size if document.turns else size - 1
        if compared < 1:
            continue
        room = context_tokens - size
        yield Window(
            document=document.name,
            production_ids=(*_before(document, production, at, room), *production.content[at:end]),
            candidate_ids=(*_before(document, candidate, at, room), *candidate.content[at:end]),
            compared=compared,
        )


def _before(document: HeldDocument, piece: Piece, at: int, room: int) -> tuple[int, ...]:
    if not document.turns:
        return piece.beginning
    before = (*piece.beginning, *piece.content[:at])
    return before[max(len(before) - room, 0) :]


def _example(name: str, theirs: list[Piece], ours: list[Piece], production: Any, candidate: Any) -> str:
    # What is predicted tells more than where a template differs, so it is looked at first.
    parts = [(left.content, right.content) for left, right in zip(theirs, ours)]
    parts += [(left.beginning, right.beginning) for left, right in zip(theirs, ours)]
    left, right = next(pair for pair in parts if pair[0] != pair[1])
    at = next((n for n, pair in enumerate(zip(left, right)) if pair[0] != pair[1]), min(len(left), len(right)))
    was, now = (_shown(ids[at : at + 4], tokenizer) for ids, tokenizer in ((left, production), (right, candidate)))
    return f"in {name}, {was} becomes {now}"


def _shown(ids: Sequence[int], tokenizer: Any) -> str:
    return f"{tokenizer.decode(list(ids))!r} {list(ids)}" if ids else "the end"
