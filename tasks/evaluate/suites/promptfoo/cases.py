"""Which tests a configuration has: inline or in files, with its defaults and its scenarios, one case a test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.suites.promptfoo.carry import from_text
from tasks.evaluate.suites.promptfoo.files import SCHEME, Folder, as_promptfoo_var, read_data
from tasks.evaluate.suites.promptfoo.ledger import CannotCarry, Ledger
from tasks.evaluate.suites.promptfoo.templates import Vars
from weighbridge.errors import ImportRefused

UNASKED = {
    "providerOutput": "it judges an output that is given instead of asking a model",
    "assertScoringFunction": "its score is computed by a program, and programs are not run",
}
"""Fields of a test without which it is another test."""
UNASKED_OPTIONS = {
    "transform": "its answers are changed by a program before they are judged",
    "postprocess": "its answers are changed by a program before they are judged",
    "transformVars": "its variables are changed by a program before they are asked",
    "storeOutputAs": "later tests use its answer, and every item is asked by itself here",
}
FIELDS = {"description", "vars", "assert", "threshold", "options", "metadata", "prompts"}
OWN_PROVIDER = ("provider", "providers")


class Case(BaseModel):
    """One test with the defaults in it, its variables not yet multiplied out."""

    model_config = ConfigDict(frozen=True)

    number: int
    """Place among the configuration's tests, from 1."""
    description: str
    variables: dict[str, Any]
    assertions: tuple[tuple[str, Any], ...]
    """(where it stands, the assertion as written)."""
    threshold: Any
    options: dict[str, Any]
    metadata: dict[str, Any]
    prompts: tuple[str, ...] | None
    """Labels of the prompts that it is asked with, all where None."""


def cases_of(config: dict[str, Any], folder: Folder, ledger: Ledger) -> list[Case]:
    """A configuration's tests; what is no test of a model's answer is entered into the ledger."""
    default = config.get("defaultTest") or {}
    if isinstance(default, str):
        default = read_data(folder.one(default))
    default = _mapping(default, "defaultTest")
    raw = list(_tests(config.get("tests"), folder, ledger))
    raw += list(_scenarios(config.get("scenarios"), folder, ledger))
    if not raw and config.get("tests") is None and config.get("scenarios") is None:
        raw = [{}]  # promptfoo asks each prompt once then
    cases = []
    for number, test in enumerate(raw, start=1):
        try:
            cases.append(_case(number, _mapping(test, f"test {number}"), default, folder, ledger))
        except CannotCarry as reason:
            ledger.lose(number, "the whole test", reason)
    return cases


def _tests(entries: Any, folder: Folder, ledger: Ledger) -> Iterator[Any]:
    """Tests as they stand in the configuration and in the files that it names."""
    for entry in entries if isinstance(entries, list) else [] if entries is None else [entries]:
        reference = entry.get("path") if isinstance(entry, dict) and "path" in entry else entry
        if not isinstance(reference, str):
            yield entry
            continue
        try:
            for path in folder.find(reference):
                held = read_data(path)
                rows = held if isinstance(held, list) else [held]
                yield from (_from_row(row, ledger) for row in rows) if path.suffix == ".csv" else rows
        except CannotCarry as reason:
            ledger.lose(None, f"tests from {reference}", reason)


def _scenarios(entries: Any, folder: Folder, ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Every data set of a scenario with every test of it."""
    for number, entry in enumerate(_tests(entries, folder, ledger), start=1):
        scenario = _mapping(entry, f"scenario {number}")
        tests = [_mapping(test, f"scenario {number}") for test in _tests(scenario.get("tests"), folder, ledger)]
        for data, test in product(_tests(scenario.get("config"), folder, ledger), tests or [{}]):
            merged = {**_mapping(data, f"scenario {number}"), **test}
            for part in ("vars", "options", "metadata"):
                merged[part] = {**_part(data, part), **_part(test, part)}
            merged["assert"] = [*(data.get("assert") or []), *(test.get("assert") or [])]
            yield merged


def _case(number: int, test: dict[str, Any], default: dict[str, Any], folder: Folder, ledger: Ledger) -> Case:
    for field, why in UNASKED.items():
        if test.get(field) or default.get(field):
            raise CannotCarry(f"`{field}`: {why}")
    options = {**_part(default, "options"), **_part(test, "options")}
    for option, why in UNASKED_OPTIONS.items():
        if options.get(option):
            raise CannotCarry(f"`options.{option}`: {why}")
    if any(test.get(field) or default.get(field) for field in OWN_PROVIDER):
        ledger.note("Providers of single tests are ignored: every item is asked of what is weighed.")
    for field in sorted(set(test) - FIELDS - set(UNASKED) - set(OWN_PROVIDER)):
        ledger.lose(number, f"`{field}`", "a field of a test that is not known here")
    own = [(f"assertion {place}", one) for place, one in enumerate(test.get("assert") or [], start=1)]
    common = [(f"defaultTest assertion {place}", one) for place, one in enumerate(default.get("assert") or [], start=1)]
    threshold = test.get("threshold")
    prompts = test.get("prompts", default.get("prompts"))
    return Case(
        number=number,
        description=str(test.get("description") or ""),
        variables={**_variables(default, folder), **_variables(test, folder)},
        assertions=tuple(own if options.get("disableDefaultAsserts") else common + own),
        threshold=default.get("threshold") if threshold is None else threshold,
        options=options,
        metadata={**_part(default, "metadata"), **_part(test, "metadata")},
        prompts=None if prompts is None else tuple(map(str, prompts if isinstance(prompts, list) else [prompts])),
    )


def _variables(test: dict[str, Any], folder: Folder) -> Vars:
    named = test.get("vars") or {}
    if isinstance(named, (str, list)):
        names = [named] if isinstance(named, str) else named
        named = {name: value for one in names for name, value in _mapping(read_data(folder.one(one)), one).items()}
    return {str(name): value for name, value in _mapping(named, "vars").items()}


def combinations(case: Case, folder: Folder) -> Iterator[Vars]:
    """A case's variables, multiplied out where one is a list of texts or a pattern of files, as promptfoo does.

    Raises:
        CannotCarry: a variable comes from a program or is no text.
    """
    names = list(case.variables)
    expand = not case.options.get("disableVarExpansion")
    choices = [_choices(case.variables[name], folder, expand) for name in names]
    for values in product(*choices):
        yield dict(zip(names, values))


def _choices(value: Any, folder: Folder, expand: bool) -> list[Any]:
    # A list that does not begin with a text is one value for promptfoo, to be looped over in the prompt.
    several = value if isinstance(value, list) and value and isinstance(value[0], str) and expand else [value]
    choices: list[Any] = []
    for one in several:
        if isinstance(one, str) and one.startswith(SCHEME):
            choices += [as_promptfoo_var(path) for path in folder.find(one)]
        else:
            choices.append(one)
    return choices


def _from_row(row: dict[str, str], ledger: Ledger) -> dict[str, Any]:
    """A CSV file's row as a test: columns that begin with `__` say something of it, the others are variables."""
    test: dict[str, Any] = {"vars": {}, "assert": [], "options": {}, "metadata": {}}
    expected = {name: from_text(value) for name, value in row.items() if _is_expected(name) and value.strip()}
    for name, value in row.items():
        if not name.startswith("__"):
            test["vars"][name] = value
        elif name in ("__prefix", "__suffix"):
            test["options"][name.removeprefix("__")] = value
        elif name in ("__description", "__providerOutput") and value:
            test[name.removeprefix("__")] = value
        elif name == "__threshold" and value.strip():
            test["threshold"] = value
        elif name.startswith("__metadata:"):
            key = name.removeprefix("__metadata:")
            # In a list, a comma with a backslash before it is part of a value.
            parts = [part.strip().replace("\\,", ",") for part in re.split(r"(?<!\\),", value)]
            test["metadata"][key.removesuffix("[]")] = parts if key.endswith("[]") else value
        elif name.startswith("__config:") and value.strip():
            _configure(name, value, expected)
        elif not _is_expected(name) and name != "__metric" and value.strip():
            ledger.note(f"The CSV column {name} is not known and was ignored.")
    metric = row.get("__metric", "").strip()
    test["assert"] = [{**one, "metric": metric} if metric else one for one in expected.values()]
    return test


def _is_expected(name: str) -> bool:
    return re.fullmatch(r"__expected\d*", name) is not None


def _configure(name: str, value: str, expected: dict[str, dict[str, Any]]) -> None:
    """`__config:__expected:threshold` for all, `__config:__expected2:threshold` for one."""
    _, column, key = name.split(":", 2)
    for one in expected if column == "__expected" else {column} & set(expected):
        expected[one][key] = value


def _part(test: dict[str, Any], field: str) -> dict[str, Any]:
    return _mapping(test.get(field) or {}, field)


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ImportRefused(
            f"The configuration's {what} is no mapping of names to values.",
            "Correct it, then import again.",
            where=what,
        )
    return value
