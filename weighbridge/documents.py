"""Read YAML and JSON that others wrote: bounded in size and depth, each key once, every fault with its place.

The one reader of such files. libyaml's composer and Python's JSON scanner are recursive, and 100 kB of brackets end the
process with a segmentation fault; an alias costs two bytes and may stand for a million values; of two equal keys both
parsers silently keep the last. All of these are refused here, before a value is built.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from weighbridge.errors import DocumentInvalid

MAX_BYTES = 4 * 2**20
"""Of a file that a person writes: lines are kilobytes, the largest suite's definition is 40 kB."""
MAX_DEPTH = 64
"""Nested lists and mappings; the deepest file of the project has 9, tool schemas reach 20."""
MAX_EXPANDED = 200_000
"""Values after aliases are replaced by what they stand for."""

# libyaml's own scanner is ten times as fast, and most wheels have it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What the constructors of PyYAML and the scanner of json raise for values such as `!!int x` or a date of 31 February.
_BAD_VALUES = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)


class _Loud(_Loader):
    """A loader of plain types that refuses a mapping with a key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        first_lines: dict[Hashable, Any] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key)
            if name in first_lines:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{str(name)[:80]!r} occurs twice, first in line {first_lines[name]}", key.start_mark
                )
            first_lines[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


class TooMuch(yaml.MarkedYAMLError):
    """YAML that is deeper or larger than any that a person writes."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


def read_yaml(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a YAML file, with plain types only: no tag of it can run code.

    Raises:
        DocumentInvalid: It cannot be read, is no UTF-8 or no YAML, is too large or too deep, or has a key twice.
    """
    return parse_yaml(read_bytes(path, max_bytes), str(path), max_bytes)


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        DocumentInvalid: It cannot be read, is no UTF-8 or no JSON, is too large or too deep, or has a key twice.
    """
    return parse_json(read_bytes(path, max_bytes), str(path), max_bytes)


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file of at most so many bytes; a pipe or a device is refused, since its reader might wait forever.

    Raises:
        DocumentInvalid: It cannot be read, is no regular file, or is larger.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise DocumentInvalid(f"The file cannot be read: {why}.", "Name a file that is there.", str(path)) from None
    _check_size(content, str(path), max_bytes)
    return content


def read_utf8(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Read a text file.

    Raises:
        DocumentInvalid: It cannot be read, is no UTF-8, or is too large.
    """
    return decode(read_bytes(path, max_bytes), str(path))


def parse_yaml(content: bytes | str, where: str, max_bytes: int = MAX_BYTES) -> Any:
    """Parse YAML, with plain types only.

    Args:
        content: The document.
        where: File, or another name of it, for messages.
        max_bytes: Its largest size.

    Raises:
        DocumentInvalid: As `read_yaml`.
    """
    _check_size(content, where, max_bytes)
    text = decode(content, where) if isinstance(content, bytes) else content
    try:
        check_events(yaml.parse(text, Loader=_Loader))
        return _printable(yaml.load(text, Loader=_Loud))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        parts = filter(None, (getattr(error, "context", None), getattr(error, "problem", None)))
        problem = ", ".join(parts) or " ".join(str(error).split())
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise invalid("YAML", problem, where, line, column) from None
    except _BAD_VALUES as error:
        raise invalid("YAML", f"a value cannot be read ({' '.join(str(error).split())[:200]})", where) from None


def parse_json(
    content: bytes | str, where: str, max_bytes: int = MAX_BYTES, *, max_depth: int = MAX_DEPTH, constants: bool = True
) -> Any:
    """Parse JSON.

    Args:
        content: The document.
        where: File, or another name of it, for messages.
        max_bytes: Its largest size.
        max_depth: Of nested lists and objects.
        constants: Whether Infinity and NaN, which the standard lacks and some publishers write, are allowed.

    Raises:
        DocumentInvalid: As `read_json`.
    """
    _check_size(content, where, max_bytes)
    text = decode(content, where) if isinstance(content, bytes) else content
    try:
        found = json.loads(text, object_pairs_hook=object_of, parse_constant=None if constants else _refuse_constant)
        _check_depth(found, max_depth)
        return _printable(found) if "\\u" in text else found
    except json.JSONDecodeError as error:
        raise invalid("JSON", error.msg, where, error.lineno, error.colno) from None
    except RecursionError:
        raise invalid("JSON", f"it is nested more than {max_depth} levels deep", where) from None
    except _BAD_VALUES as error:
        raise invalid("JSON", " ".join(str(error).split())[:200], where) from None


def decode(content: bytes, where: str) -> str:
    """Decode UTF-8, with or without a byte-order mark.

    Raises:
        DocumentInvalid: It is another encoding, or no text.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentInvalid(
            f"The file is not UTF-8 text: byte 0x{content[error.start]:02x} at position {error.start}.",
            "Save it as UTF-8.",
            f"{where}, line {line}",
        ) from None


def invalid(kind: str, problem: str, where: str, line: int | None = None, column: int | None = None) -> DocumentInvalid:
    """Return the error for a document that does not parse."""
    at = f"{where}, line {line}, column {column}" if line else where
    error = DocumentInvalid(f"The file is not {kind}: {problem}.", "Correct the place named.", at)
    error.line, error.column = line, column
    return error


def _check_size(content: bytes | str, where: str, max_bytes: int) -> None:
    if len(content) > max_bytes:
        raise DocumentInvalid(
            f"The file is larger than {max_bytes:,} bytes, the most that is read.", "Shorten or split it.", where
        )


def check_events(events: Iterable[Any]) -> None:
    """Walk through a YAML document without building anything: its depth, and the size to which aliases expand.

    Args:
        events: Of PyYAML's or ruamel's parser, which name them alike.

    Raises:
        TooMuch: It is too deep, too large, or contains itself.
    """
    sizes: dict[str, int | None] = {}  # None while the anchor's own value is open
    open_values: list[tuple[str | None, int]] = []
    total = 0
    for event in events:
        kind, anchor = type(event).__name__, getattr(event, "anchor", None)
        if kind in ("SequenceStartEvent", "MappingStartEvent"):
            open_values.append((anchor, total))
            if len(open_values) > MAX_DEPTH:
                raise TooMuch(f"it is nested more than {MAX_DEPTH} levels deep", event.start_mark)
            if anchor:
                sizes[anchor] = None
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            total += 1
            opened, before = open_values.pop()
            if opened:
                sizes[opened] = total - before
        elif kind == "AliasEvent":
            size = sizes.get(anchor or "", 0)
            if size is None:
                raise TooMuch(f"*{anchor} contains itself", event.start_mark)
            total += size
        elif kind == "ScalarEvent":
            total += 1
            if anchor:
                sizes[anchor] = 1
        if total > MAX_EXPANDED:
            raise TooMuch(f"it has more than {MAX_EXPANDED:,} values, aliases written out", event.start_mark)


def _check_depth(found: Any, most: int) -> None:
    level = [found]
    for _ in range(most + 1):
        level = [
            part
            for value in level
            if isinstance(value, (list, dict))
            for part in (value.values() if isinstance(value, dict) else value)
            if isinstance(part, (list, dict))
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {most} levels deep")


class RepeatedName(ValueError):
    """A JSON object has a name twice. Readers differ in which of the two values they believe."""


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, as `object_pairs_hook` of `json.loads`.

    Raises:
        RepeatedName: A name occurs twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise RepeatedName(f"{twice[:80]!r} occurs twice in an object")
    return found


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _printable(found: Any) -> Any:
    """Return the value; half of a surrogate pair, which no file and no terminal can take, raises UnicodeEncodeError."""
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value
    return found
