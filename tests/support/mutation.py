"""Mutations of valid files for fuzzing: values of other types, cut ends, flipped bits.

A reader of outside files must answer each of them with a value or with a named error, never with another exception.
`WEIGHBRIDGE_FUZZ_EXAMPLES=10000` raises the number of examples of every such test.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

T = TypeVar("T", bound=Callable[..., None])

COUNT = int(os.environ.get("WEIGHBRIDGE_FUZZ_EXAMPLES", "60"))
"""Read once, since every test begins without the variables of the developer's shell."""
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 5, 2**24 + 1, 2**63, 10**30, 1.5, -0.0, 1e400, float("nan"), "", "abc", "NaN", "../x",
    "\0", "\x1b[31m", "a\nb", "ä" * 300, [], [1], [{}], [["x"]], [None], {}, {"a": 1}, {"": {}},
]  # fmt: skip


def examples(fewer: int = 1) -> Callable[[T], T]:
    """Settings of a fuzzing test; a slow reader asks for a part of the usual number of examples."""
    return settings(
        max_examples=max(COUNT if COUNT > 60 else COUNT // fewer, 5),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: list[Any] = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        inner = list(range(len(value)))
    return [at, *(place for key in inner[:40] for place in _places(value[key], (*at, key)))]


@st.composite
def documents(draw: st.DrawFn, valid: Any) -> Any:
    """Return a JSON value in which up to three places have a value of another type, or are missing."""
    found = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in _places(found) if place]
        if not places:
            return draw(st.sampled_from(ODD))
        *before, last = draw(st.sampled_from(places))
        holder = found
        for key in before:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.integers(0, 5)) == 0:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return found


@st.composite
def blobs(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return bytes of which a part is flipped, cut, doubled or overwritten."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            return b""
        at = draw(st.integers(0, len(content) - 1))
        how = draw(st.sampled_from(["flip", "cut", "double", "overwrite", "insert"]))
        if how == "flip":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del content[at:]
        elif how == "double":
            content[at:at] = content[at : at + draw(st.integers(1, 64))]
        elif how == "overwrite":
            content[at : at + 8] = draw(st.binary(min_size=8, max_size=8))
        else:
            insert = [b"[" * 5000, b"&a [*a]", b"\xff\xfe", b"\0", b"9" * 5000, b'"\\ud800"', b"- " * 100, b"!!int x "]
            content[at:at] = draw(st.sampled_from(insert))
    return bytes(content)


@st.composite
def json_files(draw: st.DrawFn, valid: Any) -> bytes:
    """Return a mutated JSON file: its values, or its bytes."""
    if draw(st.booleans()):
        return json.dumps(draw(documents(valid))).encode()
    return draw(blobs(json.dumps(valid).encode()))
