"""Suites: which questions there are, and the digest that says exactly which ones were asked.

`general/<task>` is an lm-eval task (`eval_suites/general/<task>.yaml` with its items in a JSONL file beside
it), `regression/<file>` a list of prompts with assertions (`eval_suites/regression/<file>.jsonl`). Adding a
suite is adding its files; nothing here knows a suite by name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.evaluate.suites.assertions import Answer, Assertion, AssertionRefused, Grade, grade
from tasks.evaluate.suites.assertions.calls import NEEDS_TOOLS, tools_problem
from tasks.evaluate.suites.item_lines import FlawedLine, lines_of
from weighbridge.errors import SuiteInvalid, SuiteUnknown
from weighbridge.files import read_yaml
from weighbridge.settings import load_settings

SUFFIX = {"general": ".yaml", "regression": ".jsonl"}
NAME = re.compile(r"(general|regression)/[\w-]+")
METRICS = {"multiple_choice": "acc", "generate_until": "exact_match"}
"""lm-eval output types that give one 0-or-1 score an item, with the metric that holds it."""


class Suite(BaseModel):
    """A suite as found on disk."""

    model_config = ConfigDict(frozen=True)

    name: str
    """general/<task> or regression/<file>."""
    kind: Literal["general", "regression"]
    digest: str
    """64 hex digits: SHA-256 over its definition and its items."""
    ids: tuple[str, ...]
    """Every item's id, in the suite's order."""
    path: Path
    """The definition: the task's YAML or the prompts' JSONL."""

    @property
    def items(self) -> int:
        """How many items it has."""
        return len(self.ids)


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Question(BaseModel):
    """One item of a regression suite: what is asked and what the answer must be like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    assertions: tuple[Assertion, ...] = Field(min_length=1, alias="assert")
    must_pass: bool = False
    tags: tuple[str, ...] = ()
    max_tokens: int = Field(64, ge=1, le=4096)
    description: str = ""
    """For the reader of a report; the model does not see it."""
    threshold: float | None = Field(None, ge=0, le=1)
    """The weighted share of assertions from which an answer is right; without it all must hold."""
    graded: bool = False
    """Whether the item's score is that share instead of 0 or 1."""
    cluster: str | None = None
    """Shared by items whose answers may well be right or wrong together: one question put in several ways."""
    tools: tuple[dict[str, Any], ...] = ()
    """The tools that the model is offered, as OpenAI's API takes them."""

    @model_validator(mode="after")
    def _fits_together(self) -> Question:
        if self.must_pass and self.graded:
            raise ValueError("a must_pass item is right or wrong: it cannot be graded")
        if problem := tools_problem(self.tools):
            raise ValueError(problem)
        kinds = {leaf.kind for one in self.assertions for leaf in one.leaves}
        if not self.tools and (needing := sorted(kinds & set(NEEDS_TOOLS))):
            raise ValueError(f"{needing[0]} needs the item's `tools` to compare with")
        return self

    @property
    def request(self) -> dict[str, Any]:
        """What is asked, as the body of an OpenAI chat completion without its `model`."""
        body = {"messages": [message.model_dump() for message in self.messages], "max_tokens": self.max_tokens}
        return {**body, "temperature": 0, **({"tools": list(self.tools)} if self.tools else {})}

    def grade(self, answer: Answer) -> Grade:
        """Hold an answer against the item's assertions."""
        return grade(self.assertions, answer.model_copy(update={"tools": self.tools}), self.threshold)

    def score(self, found: Grade) -> float:
        """The item's score by a grade of its own: 0 or 1, or the share where the item is graded."""
        return found.share if self.graded else float(found.passed)


def list_suites(root: Path | None = None) -> list[str]:
    """Names of all suites under `<root>/eval_suites`."""
    folder = _folder(root)
    found = [
        f"{kind}/{path.stem}" for kind, suffix in SUFFIX.items() for path in sorted((folder / kind).glob(f"*{suffix}"))
    ]
    return [name for name in found if NAME.fullmatch(name)]


def find_suite(name: str, root: Path | None = None) -> Suite:
    """Find a suite and check that it can be used.

    Args:
        name: general/<task> or regression/<file>.
        root: the folder that holds `eval_suites/`; the installation's by default.

    Raises:
        SuiteUnknown: there is no such suite.
        SuiteInvalid: its file cannot be used; file and line are named.
    """
    known = list_suites(root)
    if name not in known:
        raise SuiteUnknown(
            f"There is no suite called {name!r}; known suites: {', '.join(known) or 'none yet'}.",
            "Name one of these in the line, or add the suite's file to eval_suites/.",
        )
    return suite_at(name, suite_path(name, root))


def suite_at(name: str, path: Path) -> Suite:
    """The suite of a file, wherever it lies.

    Args:
        name: what to call it, general/… or regression/….
        path: the definition: a task's YAML or the prompts' JSONL.

    Raises:
        SuiteInvalid: its file cannot be used; file and line are named.
    """
    if name.startswith("regression/"):
        ids = tuple(question.id for question in questions_of(path))
        return Suite(name=name, kind="regression", digest=digest_of(path), ids=ids, path=path)
    data = data_file(path)
    ids = tuple(row["id"] for _, row in _rows(data))
    return Suite(name=name, kind="general", digest=digest_of(path, data), ids=ids, path=path)


def suite_path(name: str, root: Path | None = None) -> Path:
    """The file that defines a suite of that name, whether it is there or not."""
    return _folder(root) / f"{name}{SUFFIX[name.split('/')[0]]}"


def task_config(suite: Suite) -> dict[str, Any]:
    """A general suite's definition as lm-eval takes it, its data file made absolute.

    Raises:
        SuiteInvalid: its YAML cannot be used, or the suite changed since it was found.
    """
    data = data_file(suite.path)
    if digest_of(suite.path, data) != suite.digest:
        raise _invalid("it was changed while it was being scored.", suite.path, 1)
    config = definition_of(suite.path)
    return {**config, "dataset_kwargs": {"data_files": {"test": str(data)}}}


def metric_of(suite: Suite) -> str:
    """The metric that holds a general suite's score of an item."""
    return METRICS[definition_of(suite.path)["output_type"]]


def data_file(path: Path) -> Path:
    """The JSONL file with a general suite's items.

    Raises:
        SuiteInvalid: the definition does not name a file that is there.
    """
    named: Any = definition_of(path)
    for key in ("dataset_kwargs", "data_files", "test"):
        named = named.get(key) if isinstance(named, dict) else None
    if not isinstance(named, str) or not (path.parent / named).is_file():
        raise _invalid(f"dataset_kwargs.data_files.test names no file beside it: {named!r}.", path, 1)
    return (path.parent / named).resolve()


def questions_of(path: Path) -> tuple[Question, ...]:
    """A regression suite's items.

    Raises:
        SuiteInvalid: a line cannot be used; it is named.
    """
    return tuple(question_of(row, path, line) for line, row in _rows(path))


def question_of(row: Any, path: Path, line: int) -> Question:
    """Read one item of a regression suite.

    Args:
        row: the parsed line.
        path, line: where it stands, for the error.

    Raises:
        SuiteInvalid: it cannot be used.
    """
    try:
        return Question.model_validate(row)
    except AssertionRefused as error:
        raise SuiteInvalid(error.what, error.next_step, where=_place(path, line)) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        said = said[:1].lower() + said[1:]
        raise _invalid(f"{field}: {said}." if field else f"{said}.", path, line) from None


def definition_of(path: Path) -> dict[str, Any]:
    """A general suite's task definition.

    Raises:
        SuiteInvalid: it is no definition that can be used here.
    """
    try:
        config = read_yaml(path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not plain YAML"
        raise _invalid(
            f"{problem} (tags such as !function are not used here).", path, mark.line + 1 if mark else 1
        ) from None
    if not isinstance(config, dict) or config.get("task") != path.stem:
        raise _invalid(f"it must be a mapping with `task: {path.stem}`, the file's own name.", path, 1)
    if config.get("dataset_path") != "json" or config.get("output_type") not in METRICS:
        kinds = " or ".join(METRICS)
        raise _invalid(f"it must have `dataset_path: json` and `output_type: {kinds}`.", path, 1)
    return config


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line; the first that is none ends it."""
    empty = True
    for number, row in lines_of(path):
        if isinstance(row, FlawedLine):
            raise _invalid(f"{row.what}.", path, number)
        empty = False
        yield number, row
    if empty:
        raise _invalid("it has no items.", path, 1)


def digest_of(*paths: Path) -> str:
    """SHA-256, 64 hex digits, over the bytes of a suite's files in this order."""
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
