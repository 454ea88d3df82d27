"""What the worker may run: the deployments of `prefect.yaml` and `lines/` on disk, whatever Prefect's API says.

Whoever has Prefect's secret can write any deployment there, with any command. So the API only names a deployment; its
code, environment and fixed parameters come from the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stack.line_deployments import FILE, generated_deployments, written_deployments
from weighbridge.errors import RunRefused
from weighbridge.validation import first_fault

# A file below the root, and a function in it.
_ENTRYPOINT = re.compile(r"(?P<file>[\w-]+(?:/[\w-]+)*\.py):(?P<flow>[A-Za-z_]\w*)")
_NEXT = "Start a deployment of a line in lines/, or of prefect.yaml as it stands there; then run `weighbridge up`."


class JobVariables(BaseModel):
    """What a deployment of the file sets for its processes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: dict[str, str] = {}


class WorkPool(BaseModel):
    """The pool of a deployment of the file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_variables: JobVariables = JobVariables()


class Allowed(BaseModel):
    """A deployment of the file, as far as it decides what runs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    entrypoint: str
    """File below the root and function, such as `flows/release.py:release`."""
    parameters: dict[str, Any] = {}
    """Fixed: a run cannot replace them."""
    work_pool: WorkPool = Field(default_factory=WorkPool)

    @field_validator("entrypoint")
    @classmethod
    def _is_a_flow_below_the_root(cls, value: str) -> str:
        if not _ENTRYPOINT.fullmatch(value):
            raise ValueError("is not a file below the root and a function, such as flows/release.py:release")
        return value

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for the deployment's processes."""
        return self.work_pool.job_variables.env


def allowed_deployments(root: Path) -> list[Allowed]:
    """Read the deployments of `prefect.yaml`, and make those of the files in `lines/`.

    Raises:
        RunRefused: An entry of the file is not what the worker can run.
        DocumentInvalid: It is not YAML.
        OSError: It cannot be read.
    """
    try:
        return [Allowed.model_validate(entry) for entry in (*written_deployments(root), *generated_deployments(root))]
    except ValidationError as error:
        raise RunRefused(f"{FILE}: {first_fault(error)}.", "Correct the file.", where=str(root / FILE)) from None


def check(
    root: Path,
    *,
    name: str,
    flow: str,
    entrypoint: str | None,
    parameters: Mapping[str, Any],
    job_variables: Mapping[str, Any],
    pull_steps: list[dict[str, Any]],
) -> Allowed:
    """Find the deployment of the file that a run is of, and refuse everything that it does not say.

    Args:
        root: Folder of `prefect.yaml`.
        name: The deployment's name in the API.
        flow: Name of the run's flow in the API.
        entrypoint: The deployment's entrypoint in the API.
        parameters: Of the run.
        job_variables: Of the deployment and of the run, together.
        pull_steps: Of the deployment.

    Returns:
        The file's deployment.

    Raises:
        RunRefused: The file has no such deployment, or the run asks for more.
    """
    label = f"{flow}/{name}"
    same = [allowed for allowed in allowed_deployments(root) if allowed.name == name]
    found = next((allowed for allowed in same if allowed.entrypoint == entrypoint), None)
    if found is None:
        raise _refused(f"no deployment {name!r} of {FILE} or lines/ runs {entrypoint!r}", label)
    if flow.replace("-", "_") != found.entrypoint.rpartition(":")[2]:
        raise _refused(f"{found.entrypoint} is another flow than {flow!r}", label)
    commands = [step for steps in pull_steps for step in steps if not step.endswith("set_working_directory")]
    if commands:
        raise _refused(f"the deployment has the pull steps {', '.join(commands)}", label)
    if surplus := {key for key in job_variables if key != "env"} | _others(job_variables, found):
        raise _refused(f"the run sets the job variables {', '.join(sorted(surplus))}", label)
    replaced = [key for key, value in found.parameters.items() if key not in parameters or parameters[key] != value]
    if replaced:
        raise _refused(f"the run has no, or other, values of {', '.join(replaced)}, which {FILE} fixes", label)
    return found


def _others(job_variables: Mapping[str, Any], found: Allowed) -> set[str]:
    given = job_variables.get("env") or {}
    return {f"env.{key}" for key, value in given.items() if found.environment.get(key) != value}


def _refused(why: str, label: str) -> RunRefused:
    return RunRefused(f"The worker does not run this: {why}.", _NEXT, where=label)
