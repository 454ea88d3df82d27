"""The progress bar: drawn at a terminal and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from tasks.source.progress import byte_bar

CODE = """
from tasks.source.progress import byte_bar
with byte_bar("download acme/tiny") as progress:
    for done in range(0, 11):
        progress(done * 10**6, 10 * 10**6)
        import time; time.sleep(0.05)
"""


def test_a_terminal_shows_bytes_speed_and_time_left() -> None:
    reader, writer = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", CODE], stderr=writer, env=environment, check=True)
    os.close(writer)
    shown = b""
    while True:
        try:
            block = os.read(reader, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(reader)
    text = shown.decode()
    assert "download acme/tiny" in text
    assert "10.0 MB" in text and "MB/s" in text and "0:00:0" in text


def test_without_a_terminal_only_the_callback_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[int, int]] = []
    with byte_bar("download", also=lambda done, total: calls.append((done, total))) as progress:
        progress(1, 2)
    with byte_bar("download") as progress:
        progress(1, 2)
    captured = capsys.readouterr()
    assert (calls, captured.out, captured.err) == ([(1, 2)], "", "")
