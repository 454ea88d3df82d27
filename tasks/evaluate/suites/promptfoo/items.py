"""From a configuration to items: every prompt with every test and every choice of its variables, as promptfoo asks."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.evaluate.suites.assertions import Assertion
from tasks.evaluate.suites.promptfoo.carry import carry, metrics_of
from tasks.evaluate.suites.promptfoo.cases import Case, cases_of, combinations
from tasks.evaluate.suites.promptfoo.files import Folder, read_data
from tasks.evaluate.suites.promptfoo.ledger import CannotCarry, Ledger, Lost
from tasks.evaluate.suites.promptfoo.prompts import Prompt, messages_of, prompts_of
from tasks.evaluate.suites.promptfoo.provider import LONGEST, Offer, number_of, offer_of
from tasks.evaluate.suites.promptfoo.templates import Vars, render, resolve
from tasks.evaluate.suites.suite import Question
from weighbridge.errors import ImportRefused

RUNS_PROMPTFOO = ("outputPath", "evaluateOptions", "commandLineOptions", "sharing", "writeLatestResults")
READ = ("prompts", "tests", "scenarios", "defaultTest", "providers", "targets", "assertionTemplates")
ABOUT = ("$schema", "description", "tags")
"""What only tells a reader something of the whole configuration."""
WHOLE_TEST = "the whole test"
SLUG_CHARACTERS = 40
HASH_DIGITS = 10
USED_OPTIONS = {"prefix", "suffix", "disableVarExpansion", "disableDefaultAsserts", "max_tokens", "tools"}
QUIET_OPTIONS = {"disableConversationVar", "runSerially", "provider", "rubricPrompt", "factuality"}
"""Options that concern only how promptfoo runs, or a judge model."""


class Imported(BaseModel):
    """What a configuration gives."""

    model_config = ConfigDict(frozen=True)

    questions: tuple[Question, ...]
    lost: tuple[Lost, ...]
    """All that is not carried over."""
    notes: tuple[str, ...]
    """What is carried over otherwise than one might think."""
    tests: int
    """How many tests the configuration has, before its variables are multiplied out."""


def import_config(path: Path, *, graded: bool = False, max_tokens: int | None = None) -> Imported:
    """Read a promptfoo configuration.

    Args:
        path: promptfooconfig.yaml, or the same in JSON.
        graded: whether an item's score is the weighted share of its assertions instead of 0 or 1.
        max_tokens: the longest answer; by default the configuration's own, else promptfoo's.

    Raises:
        ImportRefused: it cannot be read, names a missing file, or one outside its folder.
    """
    if not path.is_file():
        raise ImportRefused(f"There is no file {path}.", "Name promptfoo's configuration file.", where=str(path))
    config = read_data(path)
    if not isinstance(config, dict):
        raise ImportRefused("The configuration is no mapping.", "Name promptfoo's configuration file.", where=str(path))
    ledger, folder = Ledger(), Folder(path.parent)
    _account_for_the_rest(config, ledger)
    offer = offer_of(config, folder, ledger, max_tokens)
    prompts, cases = prompts_of(config, folder, ledger), cases_of(config, folder, ledger)
    found: dict[str, Question] = {}
    for case in cases:
        for question in _items(case, prompts, config, folder, offer, ledger):
            made = question.model_copy(update={"graded": graded and not question.must_pass})
            if made.id in found:
                ledger.note(f"Test {case.number} asks and wants what an earlier one does: it is kept once.")
            found.setdefault(made.id, made)
    if any(leaf.kind == "regex" for one in found.values() for each in one.assertions for leaf in each.leaves):
        ledger.note(
            r"Regular expressions are Python's here: \d, \w and \b know all scripts, $ matches before a last \n."
        )
    return Imported(questions=tuple(found.values()), lost=ledger.lost, notes=ledger.notes, tests=len(cases))


def _account_for_the_rest(config: dict[str, Any], ledger: Ledger) -> None:
    for key in config:
        if key in RUNS_PROMPTFOO:
            ledger.note(f"`{key}` says how promptfoo runs, not what is asked; it is ignored.")
        elif key not in READ + ABOUT:
            ledger.lose(None, f"`{key}`", "a part of the configuration that has no counterpart here")


def _items(
    case: Case, prompts: list[Prompt], config: dict[str, Any], folder: Folder, offer: Offer, ledger: Ledger
) -> list[Question]:
    for option in sorted(set(case.options) - USED_OPTIONS - QUIET_OPTIONS):
        ledger.lose(case.number, f"`options.{option}`", "answers are asked for greedily and as text: it is not sent")
    asked = [prompt for prompt in prompts if case.prompts is None or _is_named(prompt.label, case.prompts)]
    if not asked and prompts:
        ledger.lose(case.number, WHOLE_TEST, f"no prompt is called {', '.join(map(str, case.prompts or ()))}")
    try:
        choices = [resolve(variables) for variables in combinations(case, folder)]
    except CannotCarry as reason:
        ledger.lose(case.number, WHOLE_TEST, reason)
        return []
    made: list[Question] = []
    refused: list[str] = []
    for variables in choices:
        try:
            assertions = _assertions(case, variables, config, folder, ledger)
        except CannotCarry as reason:
            refused.append(str(reason))
        else:
            made += _asked(case, asked, variables, assertions, config, offer, ledger)
    for why, times in Counter(refused).items():
        some = f"{times} of {len(choices)} choices of its variables"
        ledger.lose(case.number, WHOLE_TEST if times == len(choices) else some, why)
    return made


def _is_named(label: str, patterns: tuple[str, ...]) -> bool:
    """By label, by group (`group` for `group:…`) or by pattern, as promptfoo's prompt filters."""
    return any(label == one or label.startswith(f"{one}:") or fnmatch.fnmatchcase(label, str(one)) for one in patterns)


def _asked(
    case: Case,
    prompts: list[Prompt],
    variables: Vars,
    assertions: tuple[Assertion, ...],
    config: dict[str, Any],
    offer: Offer,
    ledger: Ledger,
) -> list[Question]:
    """One choice of a test's variables, with every prompt: one question put in several ways is one cluster."""
    made = []
    for prompt in prompts:
        try:
            made.append(_question(case, prompt, variables, assertions, config, offer))
        except CannotCarry as reason:
            ledger.lose(case.number, f"the prompt {prompt.label[:40]!r} with it", reason)
    if len(made) > 1:
        made = [question.model_copy(update={"cluster": made[0].id}) for question in made]
    return made


def _assertions(
    case: Case, variables: Vars, config: dict[str, Any], folder: Folder, ledger: Ledger
) -> tuple[Assertion, ...]:
    """A test's assertions.

    Raises:
        CannotCarry: none is left, or a threshold counts on one that is lost.
    """
    if not case.assertions:
        raise CannotCarry("it has no assertion: whatever a model says would pass")
    carried, lost, own = [], 0, 0
    for where, raw in case.assertions:
        shared = where.startswith("defaultTest")
        try:
            carried.append(carry(raw, variables, folder, config))
            own += not shared
        except CannotCarry as reason:
            lost += 1
            kind = f" ({raw['type']})" if isinstance(raw, dict) and "type" in raw else ""
            ledger.lose(None if shared else case.number, f"{where}{kind}", reason)
    if not carried:
        raise CannotCarry("none of its assertions can be carried over")
    if not own and any(not where.startswith("defaultTest") for where, _ in case.assertions):
        raise CannotCarry("none of its own assertions can be carried over, only the defaultTest's")
    if lost and case.threshold is not None:
        raise CannotCarry("its threshold counts on an assertion that cannot be carried over")
    return tuple(carried)


def _question(
    case: Case,
    prompt: Prompt,
    variables: Vars,
    assertions: tuple[Assertion, ...],
    config: dict[str, Any],
    offer: Offer,
) -> Question:
    prefix, suffix = (str(case.options.get(key) or "") for key in ("prefix", "suffix"))
    own_length = number_of(case.options.get("max_tokens"))
    fields: dict[str, Any] = {
        "messages": messages_of(prompt.raw, variables, prefix, suffix),
        "assert": assertions,
        "max_tokens": min(own_length, LONGEST) if own_length else offer.max_tokens,
        "tools": case.options.get("tools") or offer.tools,
        "threshold": case.threshold,
    }
    metrics = [name for _, raw in case.assertions for name in metrics_of(raw, config)]
    description = render(case.description, variables)
    try:
        bare = Question.model_validate({**fields, "id": "new"})
        content = bare.model_dump(mode="json", by_alias=True, exclude={"id"}, exclude_defaults=True)
        return Question.model_validate(
            {
                **fields,
                "id": _identity(content, description),
                "description": description,
                "tags": _tags(case.metadata, metrics),
                "must_pass": str(case.metadata.get("must_pass", "")).lower() == "true",
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CannotCarry(f"{field}: {first['msg'].removeprefix('Value error, ')}".removeprefix(": ")) from None


def _identity(content: dict[str, Any], description: str) -> str:
    """A name that stays while what is asked and wanted stays: some words, and a hash of the content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    words = description or content["messages"][-1]["content"]
    slug = re.sub(r"[\W_]+", "-", words.lower()).strip("-")[:SLUG_CHARACTERS].strip("-")
    return f"{slug}-{digest[:HASH_DIGITS]}" if slug else digest[:HASH_DIGITS]


def _tags(metadata: dict[str, Any], metrics: list[str]) -> tuple[str, ...]:
    tags: list[str] = []
    for key, value in metadata.items():
        values = value if isinstance(value, list) else [value]
        if key == "tags":
            tags += [str(one) for one in values]
        elif key != "must_pass":
            tags += [f"{key}={json.dumps(one) if isinstance(one, dict) else one}" for one in values]
    return tuple(dict.fromkeys([*tags, *(f"metric={name}" for name in metrics)]))
