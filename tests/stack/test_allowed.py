"""What the worker may run is what `prefect.yaml` on disk says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stack.allowed import Allowed, allowed_deployments, check
from weighbridge.errors import RunRefused
from weighbridge.home import project_root

RELEASE = "flows/release.py:release"
USUAL: dict[str, Any] = {
    "name": "llama",
    "flow": "release",
    "entrypoint": RELEASE,
    "parameters": {"line": "llama"},
    "job_variables": {},
    "pull_steps": [],
}


def ask(**changes: Any) -> Allowed:
    return check(project_root(), **{**USUAL, **changes})


def test_every_deployment_of_the_project_may_run_with_its_own_parameters() -> None:
    deployments = allowed_deployments(project_root())
    assert len(deployments) >= 7
    for deployment in deployments:
        flow = deployment.entrypoint.rpartition(":")[2]
        found = ask(
            name=deployment.name, flow=flow, entrypoint=deployment.entrypoint, parameters=dict(deployment.parameters)
        )
        assert found == deployment


def test_parameters_that_the_file_leaves_open_are_the_run_s_own() -> None:
    assert ask(parameters={"line": "llama", "revision": "main", "schemes": ["int4"]}).entrypoint == RELEASE


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "evil"},
        {"entrypoint": None},
        {"entrypoint": "flows/promote.py:release"},
        {"entrypoint": "flows/../flows/release.py:release"},
        {"entrypoint": "os.system"},
        {"flow": "promote"},
        {"parameters": {"line": "smollm2"}},
        {"parameters": {}},
        {"job_variables": {"command": "sh"}},
        {"job_variables": {"working_dir": "/tmp"}},
        {"job_variables": {"env": {"LD_PRELOAD": "/tmp/evil.so"}}},
        {"job_variables": {"env.LD_PRELOAD": "/tmp/evil.so"}},
        {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "id"}}]},
        {"pull_steps": [{"prefect.deployments.steps.git_clone": {"repository": "https://evil.example"}}]},
    ],
)
def test_what_the_file_does_not_say_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RunRefused, match="The worker does not run this"):
        ask(**changes)


@pytest.mark.parametrize("entrypoint", ["../evil.py:flow", "/tmp/evil.py:flow", "evil:flow", "evil.py:a.b", ""])
def test_an_entrypoint_outside_of_the_root_is_a_fault_of_the_file(tmp_path: Path, entrypoint: str) -> None:
    (tmp_path / "prefect.yaml").write_text(f"deployments: [{{name: evil, entrypoint: '{entrypoint}'}}]")
    with pytest.raises(RunRefused, match="a file below the root"):
        allowed_deployments(tmp_path)


def test_commands_in_the_file_s_job_variables_are_refused(tmp_path: Path) -> None:
    text = "deployments: [{name: a, entrypoint: 'a.py:a', work_pool: {job_variables: {command: sh}}}]"
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(RunRefused, match="command"):
        allowed_deployments(tmp_path)


@pytest.mark.parametrize("entrypoint", ["flows/promote.py:promote", "flows/mine.py:promote"])
def test_an_entry_of_prefect_yaml_takes_the_place_of_a_line_s_own(tmp_path: Path, entrypoint: str) -> None:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "mine.yaml").write_text("broken: ")
    (tmp_path / "lines" / "No-Line.yaml").touch()
    (tmp_path / "prefect.yaml").write_text(f"deployments: [{{name: mine, entrypoint: '{entrypoint}'}}]")
    found = [(deployment.name, deployment.entrypoint) for deployment in allowed_deployments(tmp_path)]
    assert found == [("mine", entrypoint), ("mine", RELEASE), ("mine", "flows/rollback.py:rollback")]
    with pytest.raises(RunRefused, match="has no, or other, values of line"):
        check(tmp_path, **{**USUAL, "name": "mine", "parameters": {"line": "other"}})
