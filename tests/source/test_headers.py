"""Safetensors headers: exactly those that the format's own library accepts are accepted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from tasks.source.headers import BITS, read_header
from weighbridge.errors import SourceDamaged

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def write(folder: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def test_a_good_header_is_read(tmp_path: Path) -> None:
    (tensor,) = read_header(write(tmp_path, GOOD, bytes(8)))
    assert (tensor.name, tensor.shape, tensor.dtype, tensor.size_bytes) == ("a", (2,), "F32", 8)


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (GOOD, bytes(7), None),
        (GOOD, bytes(9), None),
        (GOOD, bytes(8), 2**40),
        (GOOD, bytes(8), 2**64 - 1),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12), None),
        ({**GOOD, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12), None),
        ({**GOOD, "b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}}, bytes(20), None),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8), None),
        ({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, bytes(8), None),
        ({"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, bytes(8), None),
        ({"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}, bytes(8), None),
        ({"a": {"dtype": "Q9", "shape": [2], "data_offsets": [0, 8]}}, bytes(8), None),
        ({"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, bytes(8), None),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}}, bytes(8), None),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]}}, bytes(8), None),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": None}}, bytes(8), None),
        ({"a": []}, b"", None),
        ([], b"", None),
        (b"", b"", None),
        (b"{", b"", None),
        (b'{"a":' * 100_000, b"", None),
        (b"\xff\xfe", b"", None),
        (
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"x",
            None,
        ),
    ],
)
def test_wrong_headers_are_refused(tmp_path: Path, header: Any, data: bytes, length: int | None) -> None:
    with pytest.raises(SourceDamaged, match=r"x\.safetensors is damaged"):
        read_header(write(tmp_path, header, data, length))


def test_a_file_of_less_than_eight_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"1234567")
    with pytest.raises(SourceDamaged):
        read_header(path)


whole = st.integers(-1, 20)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*BITS, "Q9"]),
        "shape": st.lists(whole, max_size=3),
        "data_offsets": st.lists(whole, min_size=1, max_size=3),
    }
)


@settings(max_examples=200, deadline=None)
@given(header=st.dictionaries(st.text("ab", min_size=1, max_size=2), entries, max_size=3), size=st.integers(0, 40))
def test_what_is_accepted_opens_with_the_formats_own_library(header: Any, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), header, bytes(size))
        try:
            tensors = read_header(path)
        except SourceDamaged:
            return
        with safe_open(path, framework="np") as opened:
            assert set(opened.keys()) == {tensor.name for tensor in tensors}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_open_in_safetensors(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        path.write_bytes(content)
        try:
            read_header(path)
        except SourceDamaged:
            return
        try:
            safe_open(path, framework="np").__enter__()
        except SafetensorError as error:
            pytest.fail(f"accepted what the library refuses: {error}")
