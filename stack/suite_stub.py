"""The suite that a new line begins with: what any chat model must get through, whatever it is for."""

from __future__ import annotations

import json

from tasks.evaluate.suites.suite import find_suite
from weighbridge.errors import WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import Settings

PREFIX = "stub-"
SANE = [
    {"type": "regex", "value": r"\w"},
    # No mark of a chat template, and no words that go round in circles.
    {"type": "not-regex", "value": r"<\|[a-z_]+\|>"},
    {"type": "not-regex", "value": r"(?s)(\b\w+\b\W+)\1{5,}"},
]
MAX_TOKENS = 16
"""Of an answer, which may end there: enough to see whether a model still talks."""
QUESTIONS = (
    "Hello!",
    "Who are you?",
    "What can you help me with?",
    "Thank you for your help.",
    "Say something nice.",
    "What is a book?",
    "What is a computer?",
    "What is water?",
    "What do bees do?",
    "What does a doctor do?",
    "What is the capital of France?",
    "What is the opposite of hot?",
    "Which number comes after 8?",
    "What is 2 + 3?",
    "Name three colours.",
    "Name an animal that can fly.",
    "List two fruits.",
    "Why is the sky blue?",
    "Why do people sleep?",
    "How do I boil an egg?",
    "How do I write a letter?",
    "When does winter begin?",
    "Where do fish live?",
    "Who wrote Romeo and Juliet?",
    "Translate into French: good morning.",
    "Put this into one word: very big.",
    "Is gold a metal or a fruit?",
    "Ben put the book on the shelf. Where is the book?",
    "The train leaves at nine. When does the train leave?",
    "Give me a sentence about the sea.",
)
"""So many that a margin of 0.2 is decided, also when two answers are lost (docs/explanation/verdict.md)."""


def stub() -> str:
    """Items in the form that a suite has, to be replaced by a person's own."""
    rows = [
        {
            "id": f"{PREFIX}{number:02}",
            "messages": [{"role": "user", "content": question}],
            "assert": SANE,
            "max_tokens": MAX_TOKENS,
            "may_be_cut": True,
        }
        for number, question in enumerate(QUESTIONS, start=1)
    ]
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def stub_notes(lines: list[Line], settings: Settings) -> list[str]:
    """A sentence for each suite that still has questions of the stub; none for one that cannot be read."""
    notes = []
    for line in lines:
        for use in line.suites:
            try:
                ids = find_suite(use.name, settings.root).ids
            except WeighbridgeError:
                continue
            if left := sum(identity.startswith(PREFIX) for identity in ids):
                notes.append(
                    f"{line.name}: {left} of the {len(ids)} questions in {use.name} came with `lines new`. They tell "
                    "whether a model still talks; whether it does your work, your own questions tell."
                )
    return notes
