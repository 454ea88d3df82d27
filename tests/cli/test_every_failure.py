"""However a command fails: one named error, one exit status, one JSON document with `--json`, and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cli.app import app
from weighbridge.errors import all_errors

NAMES = {error.__name__ for error in all_errors()}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Iterate over every command that prints JSON."""
    for name, command in group.commands.items():
        here = (*path, name)
        options = {option for parameter in command.params for option in parameter.opts}
        if hasattr(command, "commands"):
            yield from commands(command, here)
        elif "--json" in options:
            yield here


COMMANDS = list(commands(typer.main.get_command(app)))


def weighbridge(*arguments: str, stdout: int = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}, check=False
    )


def named(done: subprocess.CompletedProcess[str]) -> str:
    """Return the name in the one document that a failed command printed."""
    assert "Traceback" not in done.stderr and done.returncode, done
    document = json.loads(done.stdout)
    assert document["error"] in NAMES and document["what"] and document["next"]
    return str(document["error"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_wrong_flag_is_one_document(command: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    from cli.main import run
    from cli.output import documents

    out, stream, printed = sys.stdout, documents.stream, documents.printed
    documents.printed = 0
    try:
        with pytest.raises(SystemExit) as ended:
            run([*command, "--no-such-flag", "--json"])
    finally:
        sys.stdout, documents.stream, documents.printed = out, stream, printed
    assert ended.value.code == 2
    assert json.loads(capfd.readouterr().out)["error"] == "UsageInvalid"


@pytest.mark.parametrize("arguments", [("release",), ("restore",), ("audit", "--last", "x"), ("nonsense",)])
def test_a_missing_argument_or_a_wrong_value_is_one_document(arguments: tuple[str, ...]) -> None:
    assert named(weighbridge(*arguments, "--json")) == "UsageInvalid"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"source: " + b"[" * 100_000, b"a: 1\na: 2\n", b""])
def test_a_broken_line_file_is_one_document(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "mine.yaml").write_bytes(content)
    done = weighbridge("lines", "--json", WEIGHBRIDGE_ROOT=str(tmp_path))
    assert done.returncode == 2 and json.loads(done.stdout) and "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("audit",), ("store", "ls"), ("status",), ("key", "list"), ("backup", "b")])
def test_a_home_that_is_a_file_and_a_bad_setting_are_one_document(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (home := tmp_path / "home").write_text("")
    done = weighbridge(*arguments, "--json", WEIGHBRIDGE_HOME=str(home))
    assert "Traceback" not in done.stderr and json.loads(done.stdout) is not None
    assert named(weighbridge(*arguments, "--json", WEIGHBRIDGE_MLFLOW_PORT="x")) == "SettingsInvalid"


def test_an_unexpected_fault_is_named_and_its_traceback_is_private_and_without_secrets(own_home: Path) -> None:
    code = (
        "import sys, cli.audit, cli.main, registry.installation as installation\n"
        "def load(): raise KeyError('https://ada:pa55word@host/ token=abcdef Authorization: Bearer abcdefgh')\n"
        "installation.Installation.load = load\n"
        "cli.main.run(['audit', '--json'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "MY_API_KEY": "s3cr3t-value"},
        check=False,
    )
    assert named(done) == "Unexpected" and done.returncode == 1
    [log] = (own_home / "logs" / "failures").iterdir()
    assert log.stat().st_mode & 0o077 == 0 and str(log) in json.loads(done.stdout)["next"]
    text = log.read_text()
    assert "Traceback" in text
    for secret in ("pa55word", "abcdef", "s3cr3t-value"):
        assert secret not in text + done.stdout + done.stderr


def test_a_full_or_closed_standard_output_is_no_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        done = weighbridge("audit", "--json", stdout=full.fileno())
    assert done.returncode == 6 and done.stderr.startswith("DiskFull: ") and "Exception ignored" not in done.stderr
    command = [sys.executable, "-m", "cli.main", "audit", "--json"]
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False)
    assert "Traceback" not in closed.stderr
    read, write = os.pipe()
    os.close(read)
    broken = weighbridge("lines", stdout=write)
    os.close(write)
    assert broken.returncode == 1 and broken.stderr == ""
