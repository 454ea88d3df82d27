"""What every test may rely on: a home of its own, and no settings of the developer's shell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, request) -> Path:
    """Point the test at an empty installation (the end-to-end tests bring their own)."""
    if request.node.get_closest_marker("e2e"):
        return Path(os.environ["WEIGHBRIDGE_HOME"])
    for name in list(os.environ):
        if name.startswith(("WEIGHBRIDGE_", "HF_ENDPOINT", "PREFECT_API_URL", "MLFLOW_")):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing in them: to make one takes seconds, to copy it does not."""
    from registry.models import Registry  # most tests need no registry

    database = tmp_path_factory.mktemp("mlflow-template") / "mlflow.db"
    assert Registry(f"sqlite:///{database}").candidates("none") == []
    return database
