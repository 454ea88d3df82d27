"""The prompts of the parity gate: each kind reveals a fault that the others may miss.

`short` prompts are sent one at a time; `neighbours`, `streamed`, `chat` and `stop` all at once, of many lengths, in
English and other languages, code and tables. `long` prompts are pages near the line's context whose next word stands
at their beginning: a truncated context and a wrong RoPE base show there. `stop` prompts are conversations whose answer
is complete: the next token must end it. `read` prompts are texts whose own tokens' log-probabilities are compared,
where an engine returns them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.drift.held_out import HeldDocument, Turn

VERSION = 1
"""Version of these prompts; with a change of it every reference is computed again."""
Kind = Literal["short", "neighbours", "streamed", "chat", "long", "stop", "read"]
ALONE: tuple[Kind, ...] = ("short", "long", "read")
"""Kinds that are sent one after the other, with no other request in progress."""

SHORT_WORDS, STREAMED_WORDS = 8, 14
NEIGHBOUR_WORDS = (5, 90)
"""Fewest and most words of a neighbour; lengths are spread evenly between, so that a batch has all of them."""
READ_TEXTS, READ_WORDS = 6, 100
"""Echoed log-probabilities cost an engine a whole vocabulary a position, so these are few and short."""
LONG_SHARES = (0.5, 1.0)
"""Shares of the longest prompt: one page each."""
LONGEST_TOKENS = 32_768
"""Longest page, whatever the context: references are computed on CPUs too."""
SPARE_TOKENS = 24
"""Part of the context that is left for the answer and for an engine's own bookkeeping."""
RECALLED, ASKED = 3, 2
"""Facts that a page's end repeats, and how many of the last are asked, one prompt each; the first is an example."""

PLACES = ("bakery", "chapel", "harbour", "library", "mill", "museum", "office", "school", "stable", "tower")
WORDS = ("candle", "copper", "lemon", "marble", "orange", "pepper", "silver", "tiger", "velvet", "winter")

CHATS: tuple[tuple[Turn, ...], ...] = tuple(
    tuple(Turn(role=role, content=content) for role, content in turns)
    for turns in (
        (("user", "What is the capital of France?"),),
        (("user", "Write one sentence about the sea."),),
        (("user", "Translate into German: The house is small."),),
        (("user", "List three fruits, separated by commas."),),
        (("user", "Write a Python function that adds two numbers."),),
        (("user", "¿Cuántos días tiene una semana?"),),
        (("user", "I have 12 apples and give away 5. How many are left?"),),
        (("system", "Answer with one word."), ("user", "Which animal barks?")),
        (("system", "You are a sailor."), ("user", "Good morning! How is the weather today?")),
        (
            ("user", "My name is Ada and I live in Oslo."),
            ("assistant", "Nice to meet you, Ada! How can I help you?"),
            ("user", "Where do I live?"),
        ),
        (
            ("user", "Name a yellow fruit."),
            ("assistant", "A banana."),
            ("user", "And a red one?"),
        ),
        (("user", 'Turn into JSON: name Ada, age 36, city "Oslo".'),),
    )
)
ENDED: tuple[tuple[Turn, ...], ...] = tuple(
    (Turn(role="user", content=question), Turn(role="assistant", content=answer))
    for question, answer in (
        ("What is the capital of France?", "The capital of France is Paris."),
        ("How many days has a week?", "A week has seven days."),
        ("Which animal barks?", "The animal that barks is the dog."),
        ("What is two plus two?", "Two plus two is equal to four."),
        ("Say good night.", "Good night! Sleep well, and have sweet dreams."),
        ("What colour is the sky on a clear day?", "On a clear day, the sky is blue."),
    )
)


class Question(BaseModel):
    """One prompt: plain text, or messages for the model's chat template."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    name: str
    text: str = ""
    messages: tuple[Turn, ...] = ()


def questions(documents: Sequence[HeldDocument], longest_tokens: int, count: Callable[[str], int]) -> list[Question]:
    """Make all prompts except those that need a chat template.

    Args:
        documents: the held-out texts.
        longest_tokens: of the line's prompts.
        count: returns a text's number of tokens in the artifact's tokenizer.
    """
    texts = {document.name: document.text for document in documents}
    prompts = [Question(kind="short", name=name, text=_words(text, SHORT_WORDS)) for name, text in texts.items()]
    low, high = NEIGHBOUR_WORDS
    for number, (name, text) in enumerate(texts.items()):
        for part in (number, 2 * len(texts) - 1 - number):
            words = low + (high - low) * part // (2 * len(texts) - 1)
            prompts.append(Question(kind="neighbours", name=f"{name} {words}", text=_words(text, words)))
        if number % 2:
            prompts.append(Question(kind="streamed", name=name, text=_words(text, STREAMED_WORDS)))
    for name, text in list(texts.items())[:: max(len(texts) // READ_TEXTS, 1)][:READ_TEXTS]:
        prompts.append(Question(kind="read", name=name, text=_words(text, READ_WORDS)))
    for share in LONG_SHARES:
        prompts += _page(list(texts.values()), int(share * min(longest_tokens, LONGEST_TOKENS)), count)
    return [prompt for prompt in prompts if count(prompt.text) <= longest_tokens]


def longest_prompt(context: int, positions: int | None) -> int:
    """Tokens of the longest prompt: the line's context or the model's own limit, less space for the answer."""
    available = min(context, positions or context)
    return max(available - SPARE_TOKENS, available // 2)


def digest(documents: Sequence[HeldDocument], context: int) -> str:
    """Digest of everything that the prompts are made of except the tokenizer, 64 hex digits."""
    made_of = [VERSION, context, [[document.name, document.text] for document in documents]]
    written = [[turn.model_dump() for turn in turns] for turns in CHATS + ENDED]
    return hashlib.sha256(json.dumps([made_of, written, PLACES, WORDS]).encode()).hexdigest()


def _words(text: str, count: int) -> str:
    """The first words of a text, with its own spaces and line breaks, and none at the end."""
    position = 0
    for word in text.split()[:count]:
        position = text.index(word, position) + len(word)
    return text[:position]


def _page(texts: Sequence[str], tokens: int, count: Callable[[str], int]) -> list[Question]:
    """Make one page that asks for several words of its beginning: each prompt continues the previous one."""
    order = random.Random(tokens)
    words = dict(zip(PLACES, order.sample(WORDS, len(WORDS))))
    passwords = {place: f"The password of the {place} is {word}" for place, word in words.items()}
    recalled = order.sample(PLACES, RECALLED)
    head, tail = (f"{'. '.join(passwords[place] for place in places)}.\n" for places in (PLACES, recalled))
    # As many held-out paragraphs as fit stand between. Each is counted once; joined they have no more tokens.
    paragraphs = [f"{part}\n" for text in texts for part in text.split("\n") if part.strip()]
    costs = [count(part) for part in paragraphs]
    tokens_left = tokens - count(head + tail)
    for part, cost in cycle(zip(paragraphs, costs)):
        if cost > tokens_left:
            break
        head, tokens_left = head + part, tokens_left - cost
    page, prompts = head + tail, []
    for place in recalled[-ASKED:]:
        # Up to the word that stands at the page's beginning; each prompt continues the previous one.
        cut = page.rindex(passwords[place]) + len(passwords[place]) - len(f" {words[place]}")
        prompts.append(Question(kind="long", name=f"{tokens} tokens, {place}", text=page[:cut]))
    return prompts
