"""Generator of the general suites' items from `words.yml`: `python eval_suites/general/make.py`.

The items are committed beside it, because a suite's content is part of every score's key; a test generates them again
and compares. After a change of a template or the seed every model must be scored again.

What the suites do *not* show: they consist of plain sentences and facts, far below the abilities of a large model.
They distinguish two builds of one model; they do not rank models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
SEED = 20261124
Item = dict[str, Any]
Triple = tuple[str, str, str]
"""A sentence with one gap, the right word for it and the wrong one."""


def agreement(words: dict[str, Any], chance: random.Random) -> Iterator[Item]:
    """Generate pairs of sentences that differ in one point of grammar; the right one should be more likely."""
    kinds = {
        "attractor": _attractors(words, chance),
        "relative": _relatives(words, chance),
        "verb": _verbs(words, chance),
        "determiner": _determiners(words, chance),
        "reflexive": (
            (f"{who} {end}.", right, wrong)
            for who, right, wrong in words["reflexives"]
            for end in words["reflexive_ends"]
        ),
        "participle": ((f"She has {{}} {rest}.", right, wrong) for right, wrong, rest in words["participles"]),
        "article": (
            (f"My brother saw {{}} {noun} {rest}.", right, "a" if right == "an" else "an")
            for right, noun, rest in words["articles"]
        ),
        "pronoun": (("{}", right, wrong) for right, wrong in words["pronouns"]),
        "comparative": ((frame, right, wrong) for right, wrong, frame in words["comparatives"]),
    }
    for kind, triples in kinds.items():
        for number, (frame, right, wrong) in enumerate(triples):
            pair = {"right": frame.format(right), "wrong": frame.format(wrong)}
            yield {"id": f"{kind}-{number:03}", "kind": kind, **pair}


def _attractors(words: dict[str, Any], chance: random.Random) -> Iterator[Triple]:
    """Sentences with a noun of the other number between the subject and its verb."""
    for index, (singular, plural) in enumerate(words["things"] * 4):
        (place, places), state = chance.choice(words["places"]), chance.choice(words["states"])
        if index % 2:
            yield f"The {singular} near the {places} {{}} {state}.", "is", "are"
        else:
            yield f"The {plural} near the {place} {{}} {state}.", "are", "is"


def _relatives(words: dict[str, Any], chance: random.Random) -> Iterator[Triple]:
    """Sentences with a clause between the subject and its verb that contains a noun of the other number."""
    for index, (singular, plural) in enumerate(words["people"] * 4):
        thing, things = chance.choice(words["things"])
        feeling = chance.choice(["tired", "happy", "late", "hungry"])
        if index % 2:
            yield f"The {plural} who found the {thing} {{}} {feeling}.", "were", "was"
        else:
            yield f"The {singular} who found the {things} {{}} {feeling}.", "was", "were"


def _verbs(words: dict[str, Any], chance: random.Random) -> Iterator[Triple]:
    for index, (they_verb, he_verb, rest) in enumerate(words["actions"] * 4):
        singular, plural = chance.choice(words["people"])
        # The lists have an even length: the second pass swaps the numbers.
        if (index + index // len(words["actions"])) % 2:
            yield f"The {plural} {{}} {rest}.", they_verb, he_verb
        else:
            yield f"The {singular} {{}} {rest}.", he_verb, they_verb


def _determiners(words: dict[str, Any], chance: random.Random) -> Iterator[Triple]:
    for index, (singular, plural) in enumerate(words["things"] * 3):
        (this, these), state = chance.choice([("this", "these"), ("that", "those")]), chance.choice(words["states"])
        if index % 2:
            yield f"She picked up {these} {state} {{}}.", plural, singular
        else:
            yield f"She picked up {this} {state} {{}}.", singular, plural


def choice(words: dict[str, Any], chance: random.Random) -> Iterator[Item]:
    """Generate sentences to finish, each with four endings of which one is right."""
    tables = dict(words)
    sentences = tables.pop("sentences")
    questions = [
        (frame.format(subject), answer, chance.sample(sorted(set(table.values()) - {answer}), 3))
        for frame, table in tables.items()
        for subject, answer in table.items()
    ]
    questions += [(sentence, answer, wrong) for sentence, answer, *wrong in sentences]
    for number, (question, answer, wrong) in enumerate(questions):
        options = chance.sample([answer, *wrong], 4)
        question = question[0].upper() + question[1:]
        yield {
            "id": f"choice-{number:03}",
            "question": question,
            "options": options,
            "answer": options.index(answer),
        }


def copying(words: dict[str, Any], chance: random.Random) -> Iterator[Item]:
    """Generate prompts whose short answers must match word for word, each after two examples."""
    draws: dict[str, Callable[[], tuple[str, str]]] = {
        "copy": lambda: _copied(words, chance),
        "sentence": lambda: _said_again(words, chance),
        "first": lambda: _picked(words, chance, 0, "first"),
        "last": lambda: _picked(words, chance, 2, "last"),
        "count": lambda: _counted(chance),
        "lookup": lambda: _looked_up(words, chance),
        "name": lambda: _named(words, chance),
    }
    for kind, draw in draws.items():
        questions: set[str] = set()
        while len(questions) < 16:
            (first, first_answer), (second, second_answer), (question, answer) = draw(), draw(), draw()
            # No item twice, and none whose examples contain its answer.
            if question in questions or answer in (first_answer, second_answer):
                continue
            yield {
                "id": f"{kind}-{len(questions):03}",
                "kind": kind,
                "prompt": f"{first} {first_answer}\n\n{second} {second_answer}\n\n{question}",
                "question": question,
                "answer": answer,
            }
            questions.add(question)


def _copied(words: dict[str, Any], chance: random.Random) -> tuple[str, str]:
    listed = ", ".join(chance.sample(words["words"], chance.choice([2, 3])))
    return f"List: {listed}\nCopy:", listed


def _said_again(words: dict[str, Any], chance: random.Random) -> tuple[str, str]:
    first, second = chance.sample(words["short"], 2)
    said = chance.choice(words["sentences"]).format(chance.choice(words["names"]), first, second)
    return f"Say: {said}\nAgain:", said


def _picked(words: dict[str, Any], chance: random.Random, place: int, name: str) -> tuple[str, str]:
    listed = chance.sample(words["words"], 3)
    return f"List: {', '.join(listed)}\nThe {name} word is:", listed[place]


def _counted(chance: random.Random) -> tuple[str, str]:
    start = chance.randrange(1, 90)
    row = [str(start + step) for step in range(5)]
    return f"Counting: {', '.join(row[:4])},", row[4]


def _looked_up(words: dict[str, Any], chance: random.Random) -> tuple[str, str]:
    name, city = chance.choice(words["names"]), chance.choice(words["cities"])
    return f"{name} lives in {city} and has a {chance.choice(words['short'])}.\n{name} lives in:", city


def _named(words: dict[str, Any], chance: random.Random) -> tuple[str, str]:
    name = chance.choice(words["names"])
    said = chance.choice(words["sentences"]).format(name, *chance.sample(words["short"], 2))
    return f"{said}\nName:", name


def retrieval(words: dict[str, Any], chance: random.Random) -> Iterator[Item]:
    """Generate pages of village news with four facts; the wrong options answer the other facts."""
    # A sentence is about 19 tokens: most pages have 90 with their four facts, some 170, some 350.
    yield from _pages(words, chance, [(2, 2, 2, 6, 2, 2, 16)[number % 7] for number in range(84)])


def long_retrieval(words: dict[str, Any], chance: random.Random) -> Iterator[Item]:
    """Generate pages of about 800, 1,600, 3,300 and 5,900 tokens, to detect faults of the KV cache."""
    sentences = [48] * 24 + [100] * 18 + [205] * 12 + [370] * 12
    chance.shuffle(sentences)
    yield from _pages(words, chance, sentences)


def _pages(words: dict[str, Any], chance: random.Random, sentences: list[int]) -> Iterator[Item]:
    frames = {
        "password": ("The password for the {} is", words["rooms"], words["secrets"]),
        "door": ("The door of the {} is painted", words["rooms"], words["colours"]),
        "key": ("The key to the {} is under the", words["rooms"], words["covers"]),
    }
    for number, length in enumerate(sentences):
        kind = list(frames)[number % 3]
        frame, keys, values = frames[kind]
        facts = list(zip(chance.sample(keys, 4), chance.sample(values, 4)))
        page = [_filler(words, chance) for _ in range(length)]
        for position, fact in zip(sorted(chance.choices(range(len(page) + 1), k=4), reverse=True), facts):
            page.insert(position, f"{frame.format(fact[0])} {fact[1]}.")
        subject, answer = facts[number % 4]
        options = chance.sample([value for _, value in facts], 4)
        yield {
            "id": f"{kind}-{number:03}",
            "kind": kind,
            "text": " ".join(page),
            "question": frame.format(subject),
            "options": options,
            "answer": options.index(answer),
        }


def _filler(words: dict[str, Any], chance: random.Random) -> str:
    fills = {name: chance.choice(words[name]) for name in ("weather", "load", "count")}
    return str(chance.choice(words["filler"])).format(**fills)


TASKS = {
    "agreement": agreement,
    "choice": choice,
    "copying": copying,
    "retrieval": retrieval,
    "long_retrieval": long_retrieval,
}


def lines(task: str) -> str:
    """Return the content of a task's file: one JSON object per line."""
    words = yaml.safe_load((FOLDER / "words.yml").read_text())[task.removeprefix("long_")]
    items = TASKS[task](words, random.Random(f"{SEED} {task}"))
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


if __name__ == "__main__":
    for task in TASKS:
        (FOLDER / f"{task}.jsonl").write_text(lines(task))
        print(f"{task}.jsonl: {lines(task).count(chr(10))} items")
