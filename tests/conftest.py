"""Fixtures of all tests: a home folder of their own, and no settings of the developer's shell."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

from tests.support import servers
from tests.support.browser import chromium
from tests.support.mlflow_server import MlflowServer, running, serving
from tests.support.ports import free_port
from tests.support.shared_folder import shared_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from weighbridge.settings import Settings

OURS = ("WEIGHBRIDGE_", "HF_ENDPOINT", "PREFECT_API_", "PREFECT_PROFILES_PATH", "MLFLOW_")
LONG = {
    "test_canary.py",
    "test_engine_key_served.py",
    "test_extension.py",
    "test_faults.py",
    "test_faults_around.py",
    "test_frozen_run.py",
    "test_leaving.py",
    "test_lm_eval.py",
    "test_parity_reference.py",
    "test_promote_killed.py",
    "test_quantize_calibrated_methods.py",
    "test_quantize_vllm.py",
    "test_starting.py",
    "test_unseen_faults.py",
    "test_worker.py",
}
"""Files that take half a minute or more."""
EVERYONE = {"ada": {"reviewer": "all"}, "bo": {"builder": "all"}, "oz": {"operator": "all"}}


servers.watch()
# `nohup` and a script's `&` start processes that ignore these, and so would everything that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# How long an example takes says more about the machine's load than about the code.
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server; side by side, begin with the files that take longest."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Else the last worker would be busy with one of them for a minute after the others have ended.
        items.sort(key=lambda item: item.path.name not in LONG)
    for item in items:
        servers.mark(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that starts a server and does not say so."""
    with servers.refused(item):
        return (yield)


@pytest.fixture(autouse=True)
def own_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """Point the test at an empty installation; end-to-end tests have their own."""
    if request.node.get_closest_marker("e2e"):
        return Path(os.environ["WEIGHBRIDGE_HOME"])
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with empty tables, made once because that takes seconds; tests copy it."""

    def make(folder: Path) -> None:
        from registry.models.registry import Registry  # most tests need no registry

        assert Registry(f"sqlite:///{folder / 'mlflow.db'}").candidates("none") == []

    return shared_folder(tmp_path_factory, "mlflow-template", make) / "mlflow.db"


@pytest.fixture(scope="session")
def _accounts_server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    from registry.access.grants import Granting
    from registry.access.roles import Roles
    from stack.services import services
    from weighbridge.settings import Settings

    settings = Settings(home=tmp_path_factory.mktemp("accounts"), mlflow_port=free_port(), mlflow_auth=True)
    service = services(settings)[0]
    service.program.folder.mkdir()
    shutil.copy(empty_database, service.program.folder / "mlflow.db")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environment = {**inherited, **service.program.environment}
    log = settings.home / "mlflow.log"
    with serving(service.program.command, service.program.folder, environment, log, service.healthy):
        Granting(settings, ["clicked", "toy"]).apply(Roles.model_validate({"users": EVERYONE}), print)
        yield settings


@pytest.fixture
def accounts_server(_accounts_server: Settings, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An MLflow with accounts, started as the stack starts it; it becomes this test's installation.

    On the lines `toy` and `clicked`, ada is reviewer, bo builder and oz operator. A process that names no account is
    the pipeline.
    """
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(_accounts_server.home))
    monkeypatch.setenv("WEIGHBRIDGE_MLFLOW_PORT", str(_accounts_server.mlflow_port))
    return _accounts_server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Prefect's server as the stack starts it; mark the test with a timeout of 600 s."""
    from stack.services import services
    from weighbridge import prefect_api
    from weighbridge.settings import Settings

    settings = Settings(home=tmp_path_factory.mktemp("prefect"), prefect_port=free_port())
    prefect_api.keep_secret(settings)
    service = next(service for service in services(settings) if service.name == "prefect")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environment = {**inherited, **service.program.environment}
    service.program.folder.mkdir(exist_ok=True)
    log = settings.home / "prefect.log"
    with serving(service.program.command, service.program.folder, environment, log, service.healthy):
        yield settings


@pytest.fixture(scope="session")
def mlflow_server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server that may call a receiver on loopback; mark the test with a timeout of 400 s or more."""
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    webhooks = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": key,
        # A minute by default, during which the server would not know a webhook that a test has just made.
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
    }
    with running(tmp_path_factory.mktemp("mlflow-server"), empty_database, webhooks) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser, closed at the end of the module."""
    with chromium() as browser:
        yield browser
