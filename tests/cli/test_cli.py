"""The front desk as a user meets it: real processes, their output and exit statuses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from weighbridge import __version__


class Healthy(BaseHTTPRequestHandler):
    """Answers every health check."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def weighbridge(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, cli.app, cli.main\n"
        "heavy = {'prefect', 'mlflow', 'torch', 'transformers', 'huggingface_hub', 'scipy', 'pydantic', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command_of_the_road() -> None:
    text = weighbridge("--help").stdout
    for command in ("up", "status", "down", "release", "approve", "promote", "rollback", "fit", "lines", "logs"):
        assert f" {command} " in text


def test_an_unknown_line_is_one_message_with_what_to_do() -> None:
    done = weighbridge("release", "nope")
    assert done.returncode == 2
    assert done.stderr.startswith("LineUnknown: There is no line called 'nope'; known lines: llama, smollm2.")
    assert "Next: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_json_gets_its_errors_as_json() -> None:
    done = weighbridge("release", "nope", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == "LineUnknown"


@pytest.mark.parametrize("command", [("release",), ("approve", "1"), ("promote",), ("rollback",)])
def test_without_the_stack_every_command_says_so(command: tuple[str, ...]) -> None:
    name, *rest = command
    done = weighbridge(name, "smollm2", *rest)
    assert done.returncode == 3
    assert "StackDown" in done.stderr
    assert "weighbridge up" in done.stderr


def test_an_approval_without_a_reason_is_refused_in_a_script_with_the_whole_command() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = weighbridge("approve", "smollm2", "2", WEIGHBRIDGE_MLFLOW_PORT=str(server.server_port))
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 2
    assert done.stderr.startswith("ReasonMissing: ")
    assert 'weighbridge approve smollm2 2 --reason "…"' in done.stderr


def test_a_wrong_flag_is_a_usage_error() -> None:
    done = weighbridge("release", "smollm2", "--speed", "9")
    assert done.returncode == 2
    assert "--speed" in done.stderr


def test_a_broken_line_is_named_with_file_and_field(tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "mine.yaml").write_text(yaml.safe_dump({"source": "nowhere", "schemes": ["int8"]}))
    done = weighbridge("lines", WEIGHBRIDGE_ROOT=str(tmp_path))
    assert done.returncode == 2
    assert "lines/mine.yaml" in done.stderr
    assert "source" in done.stderr
    assert "target" in done.stderr


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/true", "/dev/null"])
def test_lines_says_which_lines_engine_this_machine_lacks_and_that_is_no_mistake_of_the_file(python: str) -> None:
    done = weighbridge("lines", WEIGHBRIDGE_VLLM_PYTHON=python)
    assert done.returncode == 0, done
    said = " ".join(done.stdout.split())
    assert "llama: on this machine no release would be weighed or served. vLLM is not installed." in said
    assert "WEIGHBRIDGE_VLLM_PYTHON" in said and "smollm2: on this machine" not in said


def test_lines_lists_what_is_configured() -> None:
    answer = json.loads(weighbridge("lines", "--json").stdout)
    assert {"smollm2", "llama"} == {line["name"] for line in answer["lines"]}
    assert answer["problems"] == []


def test_every_name_in_a_line_that_does_not_exist_is_shown_and_the_status_is_2(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    (tmp_path / "eval_suites").symlink_to(root / "eval_suites", target_is_directory=True)
    (tmp_path / "lines").mkdir()
    line = yaml.safe_load((root / "lines" / "llama.yaml").read_text())
    wrong = {"engine": {"name": "nosuch"}, "schemes": ["int9"], "suites": [{"name": "general/none", "margin": 0.1}]}
    target = {**line["target"], "gpus": ["L44"]}
    (tmp_path / "lines" / "mine.yaml").write_text(yaml.safe_dump({**line, **wrong, "target": target}))
    done = weighbridge("lines", WEIGHBRIDGE_ROOT=str(tmp_path))
    assert done.returncode == 2
    as_json = weighbridge("lines", "--json", WEIGHBRIDGE_ROOT=str(tmp_path))
    assert as_json.returncode == 2
    problems = " ".join(problem["what"] for problem in json.loads(as_json.stdout)["problems"])
    for name in ("nosuch", "int9", "L44", "general/none"):
        assert name in done.stderr
        assert repr(name) in problems
    assert "lines/mine.yaml" in done.stderr


def test_the_version_is_an_option_and_a_command() -> None:
    assert weighbridge("--version").stdout == weighbridge("version").stdout == f"{__version__}\n"


def test_a_wrong_setting_is_named_by_its_variable() -> None:
    done = weighbridge("status", WEIGHBRIDGE_MLFLOW_PORT="many")
    assert done.returncode == 2
    assert "WEIGHBRIDGE_MLFLOW_PORT" in done.stderr


def test_status_without_a_stack_is_no_error() -> None:
    done = weighbridge("status", "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert {service["state"] for service in answer["services"]} == {"down"}
    assert answer["lines"] == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("status",), "`weighbridge up` starts it"),
        (("logs",), "`weighbridge up` starts the stack"),
        (("audit",), "The audit log has no entry yet."),
        (("audit", "--line", "smollm2"), "The audit log has no entry of smollm2 yet."),
        (("store", "ls"), "The store holds no artifact"),
        (("store", "verify"), "The store holds no artifact"),
    ],
)
def test_a_command_with_nothing_to_show_says_so(command: tuple[str, ...], said: str) -> None:
    done = weighbridge(*command)
    assert done.returncode == 0
    assert said in done.stdout


def test_down_without_a_stack_is_no_error() -> None:
    assert weighbridge("down").returncode == 0


def test_a_taken_port_is_named_with_its_holder_and_nothing_is_started(own_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        done = weighbridge("up", WEIGHBRIDGE_MLFLOW_PORT=str(port))
    assert done.returncode == 3
    assert f"Port {port}" in done.stderr
    assert f"process {os.getpid()}" in done.stderr
    assert "WEIGHBRIDGE_MLFLOW_PORT" in done.stderr
    assert not (own_home / "supervisor" / "supervisord.pid").exists()


def test_an_unreachable_hub_is_named(tmp_path: Path) -> None:
    done = weighbridge("fit", "smollm2", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 4
    assert "SourceUnreachable" in done.stderr
