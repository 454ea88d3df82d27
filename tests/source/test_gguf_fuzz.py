"""A GGUF whose header was damaged anywhere is read or refused by name, within seconds."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.source.gguf.reader import read_gguf
from tests.support.mutation import examples
from weighbridge.errors import QuantizationFailed

KEYS = ("general.architecture", "llama.block_count", "tokenizer.ggml.tokens", "tokenizer.chat_template", "x.list")
NUMBERS = (0, 8, 9, 10**6, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**64 - 1)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "valid.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "b", "ä"])
    writer.add_chat_template("{{ messages }}")
    writer.add_array("x.list", [1, 2, 3])
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.add_tensor("output.weight", np.zeros((2, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def read_all(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        file = read_gguf(path)
        for key in KEYS:
            file.value(key)
            file.length(key)
        assert all(tensor.rows > 0 for tensor in file.tensors)
    except QuantizationFailed as error:
        assert path.name in error.what and error.next_step


def test_the_valid_file_is_read(valid: bytes, tmp_path: Path) -> None:
    path = tmp_path / "valid.gguf"
    path.write_bytes(valid)
    file = read_gguf(path)
    assert [tensor.shape for tensor in file.tensors] == [(4, 32), (2, 64)]
    assert file.value("tokenizer.ggml.tokens") == ["a", "b", "ä"]


def test_a_list_that_claims_more_than_the_file_holds_is_refused(valid: bytes, tmp_path: Path) -> None:
    claim = struct.pack("<IQ", 5, 3)  # three int32
    assert valid.count(claim) == 1
    path = tmp_path / "long.gguf"
    path.write_bytes(valid.replace(claim, struct.pack("<IQ", 5, 2**62)))
    with pytest.raises(QuantizationFailed, match=r"long\.gguf is truncated or damaged"):
        read_gguf(path)


def test_a_damaged_file_is_read_or_refused_by_name(valid: bytes, tmp_path: Path) -> None:
    @examples()
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        content = bytearray(valid)
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(4, max(len(content) - 1, 4)))
            how = data.draw(st.sampled_from(["flip", "number", "cut", "insert"]))
            if how == "flip" and at < len(content):
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            elif how == "number":
                size = data.draw(st.sampled_from([4, 8]))
                number = data.draw(st.sampled_from(NUMBERS)) % 2 ** (8 * size)
                content[at : at + size] = number.to_bytes(size, "little")
            elif how == "cut":
                del content[at:]
            else:
                content[at:at] = content[at : at + data.draw(st.integers(1, 64))]
        read_all(tmp_path / "damaged.gguf", bytes(content))

    fuzz()
