"""Files of a configuration: found only inside its folder, and read, never run."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError

from tasks.evaluate.suites.assertions.base import NotJson, parse_json
from tasks.evaluate.suites.promptfoo.import_log import CannotConvert
from weighbridge.documents import TooMuch, check_events, read_utf8
from weighbridge.errors import DocumentInvalid, ImportRefused

SCHEME = "file://"
CODE = (".js", ".cjs", ".mjs", ".ts", ".cts", ".mts", ".py", ".rb", ".sh", ".bash", ".pl")
SHEETS = (".xlsx", ".xls")
TEXTS = (".txt", ".md", ".j2", ".csv", ".json", ".jsonl", ".yaml", ".yml")
MAX_BYTES = 64 * 2**20
"""Of one file; the largest test tables are some megabytes."""
OTHER_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|exec:|package:", re.IGNORECASE)


class _Plain(SafeConstructor):
    """A constructor that keeps dates as text."""


_Plain.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


def _load_yaml(text: str) -> Any:
    # promptfoo reads YAML 1.2. PyYAML reads 1.1, where `no` is false and `{ask: How long?}` an error.
    check_events(YAML(typ="safe", pure=True).parse(text))
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Plain
    return reader.load(text)


class Folder:
    """A configuration's folder; nothing outside it is read.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def find(self, reference: str) -> list[Path]:
        """Find the files of a reference such as `file://tests/*.yaml`, in order.

        Raises:
            ImportRefused: there is none, or one is outside the folder.
            CannotConvert: the reference names code, a spreadsheet or no file.
        """
        name = reference.removeprefix(SCHEME)
        if OTHER_SCHEME.match(name):
            raise CannotConvert(f"{reference!r} is not a file: save its content as YAML, JSON, JSONL or CSV")
        # The name of a function or sheet may follow, as in generate.py:tests and tests.xlsx#2.
        bare = re.sub(r"(\.\w+)[:#].*$", r"\1", name)
        if bare.endswith(CODE):
            raise CannotConvert(f"{reference!r} is a program, and programs are not run: save its output as a file")
        if bare.endswith(SHEETS):
            raise CannotConvert(f"{reference!r} is a spreadsheet: save it as CSV")
        try:
            found = sorted(self.root.glob(name)) if _is_pattern(name) and self._inside(name) else [self.root / name]
            found = [path for path in (self._checked(path, reference) for path in found) if path.is_file()]
        except (OSError, ValueError, RuntimeError):  # a name that no file can have, `a**b`, links in a circle
            found = []
        if not found:
            raise ImportRefused(
                f"The configuration names {reference!r}, and there is no such file.",
                "Correct the name (relative to the configuration's folder), then import again.",
                where=str(self.root),
            )
        return found

    def find_file(self, reference: str) -> Path:
        """Find the file of a reference; see `find`."""
        return self.find(reference)[0]

    def _inside(self, name: str) -> bool:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise self._outside(name)
        return True

    def _checked(self, path: Path, reference: str) -> Path:
        resolved = path.resolve()
        if not resolved.is_relative_to(self.root):
            raise self._outside(reference)
        return resolved

    def _outside(self, reference: str) -> ImportRefused:
        return ImportRefused(
            f"The configuration names {reference!r}, which is outside its own folder.",
            "Copy the file into the configuration's folder and name it there, then import again.",
            where=str(self.root),
        )


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def read_text(path: Path) -> str:
    """Read a file's text.

    Raises:
        ImportRefused: it is not UTF-8.
    """
    try:
        return read_utf8(path, MAX_BYTES)
    except DocumentInvalid as error:
        raise _unreadable(path, error.what.removesuffix("."), error.line or 1) from None


def read_data(path: Path) -> Any:
    """Parse a YAML, JSON, JSONL or CSV file; rows of CSV become {column: text}.

    Raises:
        ImportRefused: it does not parse; the error names file and line.
    """
    text = read_text(path)
    if path.suffix == ".csv":
        return _rows(path, text)
    if path.suffix == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        return [_json(path, line, number) for number, line in lines]
    if path.suffix == ".json":
        return _json(path, text, 1)
    try:
        return _load_yaml(text)
    except (YAMLError, TooMuch) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        problem = " ".join(problem.split())
        raise _unreadable(path, f"it is not YAML: {problem}", mark.line + 1 if mark else 1) from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:  # such as `!!int x`
        raise _unreadable(path, f"it is not YAML: {' '.join(str(error).split())[:200]}") from None


def read_variable(path: Path) -> str:
    """Read a file as a variable's value: YAML as compact JSON, other files as stripped text.

    Raises:
        CannotConvert: it is an image or another file that is not text.
    """
    if path.suffix in (".yaml", ".yml"):
        return json.dumps(read_data(path), ensure_ascii=False, separators=(",", ":"))
    if path.suffix not in TEXTS:
        raise CannotConvert(f"the file {path.name} is no text: only text messages are supported")
    return read_text(path).strip()


def _json(path: Path, text: str, first_line: int) -> Any:
    try:
        return parse_json(text)
    except NotJson as error:
        raise _unreadable(path, f"it is not JSON: {error}", first_line) from None


def _rows(path: Path, text: str) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise _unreadable(path, "a row has another number of cells than the header", reader.line_num)
            rows.append({str(name).strip(): value for name, value in row.items()})
    except csv.Error as error:  # such as a cell of more than 128 KiB
        raise _unreadable(path, f"it is not CSV: {error}", reader.line_num) from None
    return rows


def _unreadable(path: Path, what: str, line: int = 1) -> ImportRefused:
    return ImportRefused(
        f"{path.name} cannot be read: {what}.", "Correct the file, then import again.", where=f"{path}:{line}"
    )
