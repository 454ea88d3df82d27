"""Functions on a publisher's input: each limit ends the call with its name, and the caller goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import hostile
from weighbridge.errors import DocumentInvalid
from weighbridge.untrusted import Limits, Sandbox, Unfinished, call

SHORT = Limits(seconds=1, memory_bytes=256 * 2**20, output_bytes=2**20)


@pytest.mark.parametrize(
    ("function", "outcome"),
    [
        (hostile.loop_for_ever, "time"),
        (hostile.compute_a_power, "time"),
        (hostile.sleep_for_ever, "time"),
        (hostile.take_all_memory, "memory"),
        (hostile.take_memory_bit_by_bit, "memory"),
        (hostile.give_too_much, "output"),
        (hostile.crash, "crash"),
        (hostile.leave, "crash"),
        (hostile.recurse, "raised"),
    ],
)
def test_each_limit_ends_the_call_and_the_next_one_is_answered(function: Callable[[], Any], outcome: str) -> None:
    with Sandbox(SHORT) as sandbox:
        began = time.monotonic()
        with pytest.raises(Unfinished) as ended:
            sandbox.call(function)
        assert ended.value.outcome == outcome
        assert time.monotonic() - began < 20
        assert sandbox.call(hostile.add, 2, 3) == 5


def test_the_child_knows_no_secret_and_writes_no_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Sandbox(SHORT) as sandbox:
        assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} & set(sandbox.call(hostile.environment))
        assert sandbox.call(hostile.write, str(tmp_path / "x")) == "OSError"


def test_what_a_library_prints_is_no_answer() -> None:
    assert call(hostile.print_and_add, 2, 3, limits=SHORT) == 5


def test_a_named_error_keeps_its_name() -> None:
    with pytest.raises(DocumentInvalid, match="too deep"):
        call(hostile.refuse, limits=SHORT)


def test_one_child_serves_many_calls() -> None:
    with Sandbox(SHORT) as sandbox:
        children = {sandbox.call(os.getpid) for _ in range(20)}
    assert len(children) == 1
