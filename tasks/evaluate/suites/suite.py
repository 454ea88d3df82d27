"""Suites: their questions, and the digest that identifies exactly these questions.

`general/<task>` is an lm-eval task: `eval_suites/general/<task>.yaml`, with its items in a JSONL file beside it.
`regression/<file>` is a list of prompts with assertions: `eval_suites/regression/<file>.jsonl`. To add a suite, add its
files; no code knows a suite by name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.evaluate.suites.assertions import Answer, Assertion, AssertionRefused, Grade, assertion_kinds, grade
from tasks.evaluate.suites.assertions.kinds.calls import tools_problem
from tasks.evaluate.suites.item_lines import FlawedLine, lines_of
from weighbridge.documents import read_yaml
from weighbridge.errors import DocumentInvalid, SuiteInvalid, SuiteUnknown
from weighbridge.settings import load_settings
from weighbridge.validation import first_fault

SUFFIX = {"general": ".yaml", "regression": ".jsonl"}
NAME = re.compile(r"(general|regression)/[\w-]+")
METRICS = {"multiple_choice": "acc", "generate_until": "exact_match"}
"""lm-eval output types with one 0-or-1 score per item, and the metric with that score."""


class Suite(BaseModel):
    """A suite on disk."""

    model_config = ConfigDict(frozen=True)

    name: str
    """general/<task> or regression/<file>."""
    kind: Literal["general", "regression"]
    digest: str
    """64 hex digits: SHA-256 over its definition and its items."""
    ids: tuple[str, ...]
    """Ids of all items, in the suite's order."""
    path: Path
    """The definition: the task's YAML or the prompts' JSONL."""

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.ids)


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Question(BaseModel):
    """One item of a regression suite: a prompt, and assertions on its answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    assertions: tuple[Assertion, ...] = Field(min_length=1, alias="assert")
    must_pass: bool = False
    tags: tuple[str, ...] = ()
    max_tokens: int = Field(64, ge=1, le=4096)
    """Longest answer, apart from the thought before it."""
    thinking_tokens: int = Field(0, ge=0, le=131_072)
    """Tokens for the thought before the answer."""
    may_be_cut: bool = False
    """Whether an answer cut off at `max_tokens` counts as whole: the item asks for no more than its beginning."""
    thought_markers: tuple[str, ...] | None = None
    """(opening, closing) of the model's thoughts; empty if nothing in an answer is one; by default the families'."""
    description: str = ""
    """Shown in the report; the model does not see it."""
    threshold: float | None = Field(None, ge=0, le=1)
    """Weighted share of assertions from which an answer passes; without it all must hold."""
    graded: bool = False
    """Whether the item's score is the share instead of 0 or 1."""
    cluster: str | None = None
    """Shared by items whose answers may be right or wrong together, such as several wordings of one question."""
    tools: tuple[dict[str, Any], ...] = ()
    """The tools offered to the model, in the form of OpenAI's API."""

    @model_validator(mode="after")
    def _fits_together(self) -> Question:
        if self.must_pass and self.graded:
            raise ValueError("a must_pass item is right or wrong: it cannot be graded")
        if problem := tools_problem(self.tools):
            raise ValueError(problem)
        if self.thought_markers and (len(self.thought_markers) != 2 or not all(self.thought_markers)):
            raise ValueError("`thought_markers` has an opening and a closing text, or nothing")
        used = {leaf.kind for assertion in self.assertions for leaf in assertion.leaves}
        needing_tools = sorted(name for name, kind in assertion_kinds().items() if kind.needs_tools and name in used)
        if needing_tools and not self.tools:
            raise ValueError(f"{needing_tools[0]} needs the item's `tools` to compare with")
        return self

    @property
    def request(self) -> dict[str, Any]:
        """Body of the OpenAI chat completion, without its `model`."""
        longest = self.max_tokens + self.thinking_tokens
        body = {"messages": [message.model_dump() for message in self.messages], "max_tokens": longest}
        return {**body, "temperature": 0, **({"tools": list(self.tools)} if self.tools else {})}

    def grade(self, answer: Answer) -> Grade:
        """Grade an answer by the item's assertions."""
        return grade(self.assertions, answer.model_copy(update={"tools": self.tools}), self.threshold)

    def score(self, grade: Grade) -> float:
        """Turn a grade into the item's score: 0 or 1, or the share if the item is graded."""
        return grade.share if self.graded else float(grade.passed)


def list_suites(root: Path | None = None) -> list[str]:
    """Return the names of all suites under `<root>/eval_suites`."""
    folder = _folder(root)
    found = [
        f"{kind}/{path.stem}" for kind, suffix in SUFFIX.items() for path in sorted((folder / kind).glob(f"*{suffix}"))
    ]
    return [name for name in found if NAME.fullmatch(name)]


def find_suite(name: str, root: Path | None = None) -> Suite:
    """Find a suite by name and validate it.

    Args:
        name: general/<task> or regression/<file>.
        root: the folder that holds `eval_suites/`; the installation's by default.

    Raises:
        SuiteUnknown: there is no such suite.
        SuiteInvalid: its file is invalid; the error names file and line.
    """
    names = list_suites(root)
    if name not in names:
        raise SuiteUnknown(
            f"There is no suite called {name!r}; known suites: {', '.join(names) or 'none yet'}.",
            "Name one of these in the line, or add the suite's file to eval_suites/.",
        )
    return suite_at(name, suite_path(name, root))


def suite_at(name: str, path: Path) -> Suite:
    """Read a suite from a file at any place.

    Args:
        name: the suite's name, general/… or regression/….
        path: the definition: a task's YAML or the prompts' JSONL.

    Raises:
        SuiteInvalid: the file is invalid; the error names file and line.
    """
    if name.startswith("regression/"):
        ids = tuple(question.id for question in questions_of(path))
        return Suite(name=name, kind="regression", digest=digest_of(path), ids=ids, path=path)
    data = data_file(path)
    ids = tuple(row["id"] for _, row in _rows(data))
    return Suite(name=name, kind="general", digest=digest_of(path, data), ids=ids, path=path)


def suite_path(name: str, root: Path | None = None) -> Path:
    """Return the path of a suite's definition, whether or not it exists."""
    return _folder(root) / f"{name}{SUFFIX[name.split('/')[0]]}"


def task_config(suite: Suite) -> dict[str, Any]:
    """Return a general suite's definition as lm-eval takes it, with an absolute path of its data file.

    Raises:
        SuiteInvalid: its YAML is invalid, or the suite changed since it was found.
    """
    data = data_file(suite.path)
    if digest_of(suite.path, data) != suite.digest:
        raise _invalid("it was changed while it was being scored.", suite.path, 1)
    config = definition_of(suite.path)
    return {**config, "dataset_kwargs": {"data_files": {"test": str(data)}}}


def metric_of(suite: Suite) -> str:
    """Return the metric with the scores of a general suite's items."""
    return METRICS[definition_of(suite.path)["output_type"]]


def data_file(path: Path) -> Path:
    """Return the path of the JSONL file with a general suite's items.

    Raises:
        SuiteInvalid: the definition names no existing file.
    """
    named: Any = definition_of(path)
    for key in ("dataset_kwargs", "data_files", "test"):
        named = named.get(key) if isinstance(named, dict) else None
    try:
        is_there = isinstance(named, str) and (path.parent / named).is_file()
    except OSError:  # a name that no file can have
        is_there = False
    if not is_there:
        raise _invalid(f"dataset_kwargs.data_files.test names no file beside it: {named!r}.", path, 1)
    return (path.parent / named).resolve()


def questions_of(path: Path) -> tuple[Question, ...]:
    """Read the items of a regression suite.

    Raises:
        SuiteInvalid: a line is invalid; the error names it.
    """
    return tuple(question_of(row, path, line) for line, row in _rows(path))


def question_of(row: Any, path: Path, line: int) -> Question:
    """Read one item of a regression suite.

    Args:
        row: the parsed line.
        path, line: its place, for the error.

    Raises:
        SuiteInvalid: the item is invalid.
    """
    try:
        return Question.model_validate(row)
    except AssertionRefused as error:
        raise SuiteInvalid(error.what, error.next_step, where=_place(path, line)) from None
    except ValidationError as error:
        raise _invalid(f"{first_fault(error)}.", path, line) from None


def definition_of(path: Path) -> dict[str, Any]:
    """Read a general suite's task definition.

    Raises:
        SuiteInvalid: the definition is invalid or not supported.
    """
    try:
        config = read_yaml(path)
    except DocumentInvalid as error:
        raise _invalid(
            f"{error.what[:-1]} (tags such as !function are not supported).", path, error.line or 1
        ) from None
    if not isinstance(config, dict) or config.get("task") != path.stem:
        raise _invalid(f"it must be a mapping with `task: {path.stem}`, the file's own name.", path, 1)
    if config.get("dataset_path") != "json" or config.get("output_type") not in tuple(METRICS):
        kinds = " or ".join(METRICS)
        raise _invalid(f"it must have `dataset_path: json` and `output_type: {kinds}`.", path, 1)
    return config


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the object of every line, up to the first flawed one."""
    is_empty = True
    for number, row in lines_of(path):
        if isinstance(row, FlawedLine):
            raise _invalid(f"{row.what}.", path, number)
        is_empty = False
        yield number, row
    if is_empty:
        raise _invalid("it has no items.", path, 1)


def digest_of(*paths: Path) -> str:
    """Return 64 hex digits of SHA-256 over the bytes of a suite's files, in this order."""
    parts = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _folder(root: Path | None) -> Path:
    return (root or load_settings().root) / "eval_suites"


def _place(path: Path, line: int) -> str:
    return f"{path.parent.name}/{path.name}:{line}"


def _invalid(what: str, path: Path, line: int) -> SuiteInvalid:
    return SuiteInvalid(
        f"The suite cannot be used: {what}", "Correct the file, then run it again.", where=_place(path, line)
    )
