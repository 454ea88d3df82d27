"""The suite that a new line begins with: what any chat model must get through, whatever it is for."""

from __future__ import annotations

import json

from tasks.evaluate.suites.suite import find_suite
from weighbridge.errors import WeighbridgeError
from weighbridge.line import Line
from weighbridge.settings import Settings

PREFIX = "stub-"
SANE = [
    # No mark of a chat template, and no words that go round in circles.
    {"type": "not-regex", "value": r"<\|[a-z_]+\|>"},
    {"type": "not-regex", "value": r"(?s)(\b\w+\b\W+)\1{5,}"},
]
MAX_TOKENS = 24
"""Of an answer, which may end there: enough to see whether a model speaks of what it was asked."""
QUESTIONS = {
    "What is a book?": "book",
    "What is a computer?": "computer",
    "What is water?": "water",
    "What do bees do?": "bee|honey|pollin",
    "What does a doctor do?": "doctor|medic|patient",
    "What is the capital of France?": "paris",
    "Why do people sleep?": "sleep",
    "How do I boil an egg?": "egg|boil",
    "How do I write a letter?": "letter|writ",
    "When does winter begin?": "winter|december|november",
    "Where do fish live?": "fish|water|ocean|sea",
    "Who wrote Romeo and Juliet?": "shakespeare|romeo",
    "Ben put the book on the shelf. Where is the book?": "shelf",
    "The train leaves at nine. When does the train leave?": "nine|9",
    "Give me a sentence about the sea.": r"\bsea\b|ocean",
    "Tell me about the moon.": "moon",
    "What is a garden?": "garden",
    "What is music?": "music",
    "What is snow?": "snow",
    "What is a bicycle?": "bicycle|bike",
    "What is bread made of?": "bread|flour",
    "How do I wash my hands?": "hand|soap|wash",
    "What is a library for?": "librar|book",
    "Anna has a red car. What colour is her car?": "red",
    "What is a window?": "window",
    "What is a map?": "map",
    "How do plants grow?": "plant|grow",
    "Tell me about cats.": r"\bcats?\b",
    "What is a chair?": "chair|seat|sit",
    "What is rain?": "rain|water",
}
"""What an answer to each says of its subject, whatever else; a greeting or any other ready answer says none of it.

So many that a margin of 0.2 is decided, also when two answers are lost, and that a model which talks is told from one
that does not (docs/explanation/verdict.md).
"""


def stub() -> str:
    """Items in the form that a suite has, to be replaced by a person's own."""
    rows = [
        {
            "id": f"{PREFIX}{number:02}",
            "messages": [{"role": "user", "content": question}],
            "assert": [{"type": "regex", "value": f"(?i){subject}"}, *SANE],
            "max_tokens": MAX_TOKENS,
            "may_be_cut": True,
        }
        for number, (question, subject) in enumerate(QUESTIONS.items(), start=1)
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
