"""Conversion of a configuration to items: every prompt with every test and combination of variables."""

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
from tasks.evaluate.suites.promptfoo.assertions import convert_assertion, metric_names
from tasks.evaluate.suites.promptfoo.cases import Case, combinations, read_cases
from tasks.evaluate.suites.promptfoo.files import Folder, read_data
from tasks.evaluate.suites.promptfoo.import_log import CannotConvert, ImportLog, Lost
from tasks.evaluate.suites.promptfoo.prompts import Prompt, read_prompts, render_messages
from tasks.evaluate.suites.promptfoo.provider import LONGEST, Offer, parse_tokens, read_offer
from tasks.evaluate.suites.promptfoo.templates import Vars, render, resolve
from tasks.evaluate.suites.suite import Question
from weighbridge.errors import ImportRefused
from weighbridge.validation import first_fault

RUN_PARTS = ("outputPath", "evaluateOptions", "commandLineOptions", "sharing", "writeLatestResults")
READ_PARTS = ("prompts", "tests", "scenarios", "defaultTest", "providers", "targets", "assertionTemplates")
DESCRIPTIVE_PARTS = ("$schema", "description", "tags")
"""Parts that only describe the configuration to a reader."""
WHOLE_TEST = "the whole test"
SLUG_CHARACTERS = 40
HASH_DIGITS = 10
USED_OPTIONS = {"prefix", "suffix", "disableVarExpansion", "disableDefaultAsserts", "max_tokens", "tools"}
IGNORED_OPTIONS = {"disableConversationVar", "runSerially", "provider", "rubricPrompt", "factuality"}
"""Options of promptfoo's runs or of a judge model."""


class Imported(BaseModel):
    """The result of an import."""

    model_config = ConfigDict(frozen=True)

    questions: tuple[Question, ...]
    lost: tuple[Lost, ...]
    """Everything that is not imported."""
    notes: tuple[str, ...]
    """Parts that are imported differently than a reader may expect."""
    tests: int
    """Number of the configuration's tests, before variables are expanded."""


def import_config(path: Path, *, graded: bool = False, max_tokens: int | None = None) -> Imported:
    """Import a promptfoo configuration.

    Args:
        path: promptfooconfig.yaml, or the same in JSON.
        graded: whether an item's score is the weighted share of its assertions instead of 0 or 1.
        max_tokens: limit of an answer; by default the configuration's, else promptfoo's.

    Raises:
        ImportRefused: the configuration cannot be read, or names a file that is missing or outside its folder.
    """
    if not path.is_file():
        raise ImportRefused(f"There is no file {path}.", "Name promptfoo's configuration file.", where=str(path))
    config = read_data(path)
    if not isinstance(config, dict):
        raise ImportRefused(
            "The configuration is not a mapping.", "Name promptfoo's configuration file.", where=str(path)
        )
    try:
        return _imported(config, Folder(path.parent), graded, max_tokens)
    except (TypeError, AttributeError, LookupError, ValueError, RecursionError) as error:  # a number for a list, …
        raise ImportRefused(
            f"The configuration has a value of another kind than promptfoo's: {' '.join(str(error).split())[:200]}.",
            "Check it with `promptfoo validate`, correct it, then import again.",
            where=str(path),
        ) from None


def _imported(config: dict[str, Any], folder: Folder, graded: bool, max_tokens: int | None) -> Imported:
    import_log = ImportLog()
    _log_other_parts(config, import_log)
    offer = read_offer(config, folder, import_log, max_tokens)
    prompts, cases = read_prompts(config, folder, import_log), read_cases(config, folder, import_log)
    found: dict[str, Question] = {}
    for case in cases:
        for question in _items(case, prompts, config, folder, offer, import_log):
            item = question.model_copy(update={"graded": graded and not question.must_pass})
            if item.id in found:
                import_log.note(f"Test {case.number} equals an earlier test: it is imported once.")
            found.setdefault(item.id, item)
    assertions = [assertion for item in found.values() for assertion in item.assertions]
    if any(leaf.kind == "regex" for assertion in assertions for leaf in assertion.leaves):
        import_log.note(
            r"Regular expressions are Python's here: \d, \w and \b know all scripts, $ matches before a last \n."
        )
    return Imported(questions=tuple(found.values()), lost=import_log.lost, notes=import_log.notes, tests=len(cases))


def _log_other_parts(config: dict[str, Any], import_log: ImportLog) -> None:
    for key in config:
        if key in RUN_PARTS:
            import_log.note(f"`{key}` configures promptfoo's runs, not its tests; it is ignored.")
        elif key not in READ_PARTS + DESCRIPTIVE_PARTS:
            import_log.skip(None, f"`{key}`", "this part of the configuration is not supported")


def _items(
    case: Case, prompts: list[Prompt], config: dict[str, Any], folder: Folder, offer: Offer, import_log: ImportLog
) -> list[Question]:
    for option in sorted(set(case.options) - USED_OPTIONS - IGNORED_OPTIONS):
        import_log.skip(case.number, f"`options.{option}`", "requests are greedy and for text: it is not sent")
    chosen = [prompt for prompt in prompts if case.prompts is None or _is_named(prompt.label, case.prompts)]
    if not chosen and prompts:
        import_log.skip(case.number, WHOLE_TEST, f"no prompt is called {', '.join(map(str, case.prompts or ()))}")
    try:
        choices = [resolve(variables) for variables in combinations(case, folder)]
    except CannotConvert as reason:
        import_log.skip(case.number, WHOLE_TEST, reason)
        return []
    questions: list[Question] = []
    refused: list[str] = []
    for variables in choices:
        try:
            assertions = _assertions(case, variables, config, folder, import_log)
        except CannotConvert as reason:
            refused.append(str(reason))
        else:
            questions += _questions(case, chosen, variables, assertions, config, offer, import_log)
    for why, times in Counter(refused).items():
        some = f"{times} of {len(choices)} combinations of its variables"
        import_log.skip(case.number, WHOLE_TEST if times == len(choices) else some, why)
    return questions


def _is_named(label: str, patterns: tuple[str, ...]) -> bool:
    """Match by label, by group (`group` for `group:…`) or by pattern, as promptfoo's prompt filters."""
    return any(
        label == pattern or label.startswith(f"{pattern}:") or fnmatch.fnmatchcase(label, str(pattern))
        for pattern in patterns
    )


def _questions(
    case: Case,
    prompts: list[Prompt],
    variables: Vars,
    assertions: tuple[Assertion, ...],
    config: dict[str, Any],
    offer: Offer,
    import_log: ImportLog,
) -> list[Question]:
    """One combination of a test's variables with every prompt; wordings of one question form a cluster."""
    questions = []
    for prompt in prompts:
        try:
            questions.append(_question(case, prompt, variables, assertions, config, offer))
        except CannotConvert as reason:
            import_log.skip(case.number, f"the prompt {prompt.label[:40]!r} with it", reason)
    if len(questions) > 1:
        cluster = questions[0].id
        questions = [question.model_copy(update={"cluster": cluster}) for question in questions]
    return questions


def _assertions(
    case: Case, variables: Vars, config: dict[str, Any], folder: Folder, import_log: ImportLog
) -> tuple[Assertion, ...]:
    """Convert a test's assertions.

    Raises:
        CannotConvert: none can be imported, or a threshold depends on one that cannot.
    """
    if not case.assertions:
        raise CannotConvert("it has no assertion: any answer would pass")
    converted, skipped, own = [], 0, 0
    for where, raw in case.assertions:
        shared = where.startswith("defaultTest")
        try:
            converted.append(convert_assertion(raw, variables, folder, config))
            own += not shared
        except CannotConvert as reason:
            skipped += 1
            kind = f" ({raw['type']})" if isinstance(raw, dict) and "type" in raw else ""
            import_log.skip(None if shared else case.number, f"{where}{kind}", reason)
    if not converted:
        raise CannotConvert("none of its assertions can be imported")
    if not own and any(not where.startswith("defaultTest") for where, _ in case.assertions):
        raise CannotConvert("none of its own assertions can be imported, only the defaultTest's")
    if skipped and case.threshold is not None:
        raise CannotConvert("its threshold counts on an assertion that cannot be imported")
    return tuple(converted)


def _question(
    case: Case,
    prompt: Prompt,
    variables: Vars,
    assertions: tuple[Assertion, ...],
    config: dict[str, Any],
    offer: Offer,
) -> Question:
    prefix, suffix = (str(case.options.get(key) or "") for key in ("prefix", "suffix"))
    own_length = parse_tokens(case.options.get("max_tokens"))
    fields: dict[str, Any] = {
        "messages": render_messages(prompt.raw, variables, prefix, suffix),
        "assert": assertions,
        "max_tokens": min(own_length, LONGEST) if own_length else offer.max_tokens,
        "tools": case.options.get("tools") or offer.tools,
        "threshold": case.threshold,
    }
    metrics = [name for _, raw in case.assertions for name in metric_names(raw, config)]
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
        raise CannotConvert(first_fault(error)) from None


def _identity(content: dict[str, Any], description: str) -> str:
    """An id that depends only on the item's content: some words, and a hash."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    words = description or content["messages"][-1]["content"]
    slug = re.sub(r"[\W_]+", "-", words.lower()).strip("-")[:SLUG_CHARACTERS].strip("-")
    return f"{slug}-{digest[:HASH_DIGITS]}" if slug else digest[:HASH_DIGITS]


def _tags(metadata: dict[str, Any], metrics: list[str]) -> tuple[str, ...]:
    tags: list[str] = []
    for key, value in metadata.items():
        values = value if isinstance(value, list) else [value]
        if key == "tags":
            tags += [str(entry) for entry in values]
        elif key != "must_pass":
            tags += [f"{key}={json.dumps(entry) if isinstance(entry, dict) else entry}" for entry in values]
    return tuple(dict.fromkeys([*tags, *(f"metric={name}" for name in metrics)]))
