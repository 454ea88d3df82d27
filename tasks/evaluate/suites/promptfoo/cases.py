"""The tests of a configuration: inline or in files, with defaults and scenarios, one case per test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.suites.promptfoo.assertions import parse_cell
from tasks.evaluate.suites.promptfoo.files import SCHEME, Folder, read_data, read_variable
from tasks.evaluate.suites.promptfoo.import_log import CannotConvert, ImportLog
from tasks.evaluate.suites.promptfoo.templates import Vars
from weighbridge.errors import ImportRefused

REFUSED_FIELDS = {
    "providerOutput": "it judges a given output instead of asking a model",
    "assertScoringFunction": "its score is computed by a program, and programs are not run",
}
"""Fields that change what a test means, and cannot be imported."""
REFUSED_OPTIONS = {
    "transform": "a program changes its answers before they are judged",
    "postprocess": "a program changes its answers before they are judged",
    "transformVars": "a program changes its variables",
    "storeOutputAs": "later tests use its answer, and items are independent here",
}
FIELDS = {"description", "vars", "assert", "threshold", "options", "metadata", "prompts"}
PROVIDER_FIELDS = ("provider", "providers")


class Case(BaseModel):
    """One test with the defaults applied, before its variables are expanded."""

    model_config = ConfigDict(frozen=True)

    number: int
    """Number among the configuration's tests, from 1."""
    description: str
    variables: dict[str, Any]
    assertions: tuple[tuple[str, Any], ...]
    """Pairs of the place of an assertion and the assertion as written."""
    threshold: Any
    options: dict[str, Any]
    metadata: dict[str, Any]
    prompts: tuple[str, ...] | None
    """Labels of the test's prompts; all prompts if None."""


def read_cases(config: dict[str, Any], folder: Folder, import_log: ImportLog) -> list[Case]:
    """Read a configuration's tests; those that cannot be imported are logged."""
    default = config.get("defaultTest") or {}
    if isinstance(default, str):
        default = read_data(folder.find_file(default))
    default = _mapping(default, "defaultTest")
    raw = list(_tests(config.get("tests"), folder, import_log))
    raw += list(_scenarios(config.get("scenarios"), folder, import_log))
    if not raw and config.get("tests") is None and config.get("scenarios") is None:
        raw = [{}]  # promptfoo then sends each prompt once
    cases = []
    for number, test in enumerate(raw, start=1):
        try:
            cases.append(_case(number, _mapping(test, f"test {number}"), default, folder, import_log))
        except CannotConvert as reason:
            import_log.skip(number, "the whole test", reason)
    return cases


def _tests(entries: Any, folder: Folder, import_log: ImportLog) -> Iterator[Any]:
    """Yield tests of the configuration and of the files that it names."""
    for entry in entries if isinstance(entries, list) else [] if entries is None else [entries]:
        reference = entry.get("path") if isinstance(entry, dict) and "path" in entry else entry
        if not isinstance(reference, str):
            yield entry
            continue
        try:
            for path in folder.find(reference):
                content = read_data(path)
                rows = content if isinstance(content, list) else [content]
                yield from (_from_row(row, import_log) for row in rows) if path.suffix == ".csv" else rows
        except CannotConvert as reason:
            import_log.skip(None, f"tests from {reference}", reason)


def _scenarios(entries: Any, folder: Folder, import_log: ImportLog) -> Iterator[dict[str, Any]]:
    """Yield every data set of a scenario with each of its tests."""
    for number, entry in enumerate(_tests(entries, folder, import_log), start=1):
        scenario = _mapping(entry, f"scenario {number}")
        tests = [_mapping(test, f"scenario {number}") for test in _tests(scenario.get("tests"), folder, import_log)]
        for data, test in product(_tests(scenario.get("config"), folder, import_log), tests or [{}]):
            merged = {**_mapping(data, f"scenario {number}"), **test}
            for part in ("vars", "options", "metadata"):
                merged[part] = {**_part(data, part), **_part(test, part)}
            merged["assert"] = [*(data.get("assert") or []), *(test.get("assert") or [])]
            yield merged


def _case(number: int, test: dict[str, Any], default: dict[str, Any], folder: Folder, import_log: ImportLog) -> Case:
    for field, why in REFUSED_FIELDS.items():
        if test.get(field) or default.get(field):
            raise CannotConvert(f"`{field}`: {why}")
    options = {**_part(default, "options"), **_part(test, "options")}
    for option, why in REFUSED_OPTIONS.items():
        if options.get(option):
            raise CannotConvert(f"`options.{option}`: {why}")
    if any(test.get(field) or default.get(field) for field in PROVIDER_FIELDS):
        import_log.note("Providers of single tests are ignored: every item is sent to the models that are compared.")
    for field in sorted(set(test) - FIELDS - set(REFUSED_FIELDS) - set(PROVIDER_FIELDS)):
        import_log.skip(number, f"`{field}`", "an unknown field of a test")
    own = [(f"assertion {place}", raw) for place, raw in enumerate(test.get("assert") or [], start=1)]
    common = [(f"defaultTest assertion {place}", raw) for place, raw in enumerate(default.get("assert") or [], start=1)]
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
    variables = test.get("vars") or {}
    if isinstance(variables, (str, list)):
        files = [variables] if isinstance(variables, str) else variables
        contents = [_mapping(read_data(folder.find_file(file)), file) for file in files]
        variables = {name: value for content in contents for name, value in content.items()}
    return {str(name): value for name, value in _mapping(variables, "vars").items()}


def combinations(case: Case, folder: Folder) -> Iterator[Vars]:
    """Yield every combination of a case's variables; lists of texts and file patterns expand, as in promptfoo.

    Raises:
        CannotConvert: a variable comes from a program or is not a text.
    """
    names = list(case.variables)
    expand = not case.options.get("disableVarExpansion")
    choices = [_choices(case.variables[name], folder, expand) for name in names]
    for values in product(*choices):
        yield dict(zip(names, values))


def _choices(value: Any, folder: Folder, expand: bool) -> list[Any]:
    # To promptfoo a list that does not begin with a text is one value, for a loop in the prompt.
    several = value if isinstance(value, list) and value and isinstance(value[0], str) and expand else [value]
    choices: list[Any] = []
    for choice in several:
        if isinstance(choice, str) and choice.startswith(SCHEME):
            choices += [read_variable(path) for path in folder.find(choice)]
        else:
            choices.append(choice)
    return choices


def _from_row(row: dict[str, str], import_log: ImportLog) -> dict[str, Any]:
    """Read a CSV row as a test: columns that begin with `__` configure it, the others are variables."""
    test: dict[str, Any] = {"vars": {}, "assert": [], "options": {}, "metadata": {}}
    expected = {name: parse_cell(value) for name, value in row.items() if _is_expected(name) and value.strip()}
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
            # In a list, a comma after a backslash is part of a value.
            parts = [part.strip().replace("\\,", ",") for part in re.split(r"(?<!\\),", value)]
            test["metadata"][key.removesuffix("[]")] = parts if key.endswith("[]") else value
        elif name.startswith("__config:") and value.strip():
            _configure(name, value, expected)
        elif not _is_expected(name) and name != "__metric" and value.strip():
            import_log.note(f"The unknown CSV column {name} is ignored.")
    metric = row.get("__metric", "").strip()
    test["assert"] = [{**raw, "metric": metric} if metric else raw for raw in expected.values()]
    return test


def _is_expected(name: str) -> bool:
    return re.fullmatch(r"__expected\d*", name) is not None


def _configure(name: str, value: str, expected: dict[str, dict[str, Any]]) -> None:
    """Apply `__config:__expected:threshold` to all assertions, `__config:__expected2:threshold` to one."""
    _, column, key = name.split(":", 2)
    for target in expected if column == "__expected" else {column} & set(expected):
        expected[target][key] = value


def _part(test: dict[str, Any], field: str) -> dict[str, Any]:
    return _mapping(test.get(field) or {}, field)


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ImportRefused(
            f"The configuration's {what} is not a mapping of names to values.",
            "Correct it, then import again.",
            where=what,
        )
    return value
