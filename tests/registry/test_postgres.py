"""The registry on PostgreSQL with its files on an S3-compatible server, both real, as the stack starts MLflow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from registry.audit import AuditLog
from registry.backup import back_up, restore
from registry.models.records import ReleaseRecord
from registry.models.registry import Registry
from stack.services import services
from tests.support import object_store as s3
from tests.support.mlflow_server import serving
from tests.support.ports import free_port
from tests.support.postgres import postgres, postgres_programs
from weighbridge.errors import SettingsInvalid
from weighbridge.settings import Settings, load_settings

Make = Callable[..., ReleaseRecord]
PROGRAMS = postgres_programs()
pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(400),
    pytest.mark.skipif(PROGRAMS is None, reason="no PostgreSQL on this machine"),
]
BUCKET = "mlflow"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    assert PROGRAMS is not None
    with postgres(PROGRAMS) as address:
        yield address


def make_database(server: str, name: str) -> str:
    """Address of an empty database."""
    import psycopg

    connection = psycopg.connect(f"{server}/postgres")
    connection.autocommit = True
    connection.cursor().execute(f"create database {name}")
    connection.close()
    return f"{server}/{name}"


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    def make(name: str, **variables: str) -> Settings:
        monkeypatch.chdir(tmp_path)
        for key, value in {"HOME": str(tmp_path / name), **variables}.items():
            monkeypatch.setenv(f"WEIGHBRIDGE_{key}", value)
        return load_settings()

    return make


def decided(registry: Registry, release: Make) -> None:
    """Record a release, approve it and set production."""
    registry.record_release(release())
    registry.approve("toy", 1, "better", "anna")
    registry.set_production("toy", 1)


def test_records_are_restored_into_another_database(
    server: str, installation: Callable[..., Settings], release: Make, tmp_path: Path
) -> None:
    old = installation("old", MLFLOW_BACKEND_URI=make_database(server, "old"))
    registry = Registry(old.mlflow_backend)
    decided(registry, release)
    written = back_up(old, tmp_path / "backup.tar.gz")
    registry.set_state("toy", 1, "failed", "after the backup")

    new = installation("new", MLFLOW_BACKEND_URI=make_database(server, "new"))
    shutil.copytree(old.home / "keys", new.home / "keys", dirs_exist_ok=True)
    restore(new, tmp_path / "backup.tar.gz")
    production = Registry(new.mlflow_backend).production("toy")
    assert production is not None and (production.version, production.state) == (1, None)
    assert AuditLog.of(new).verify(written.audit_head)

    # Over existing records: in one transaction, after a dump of the old ones.
    done = restore(old, tmp_path / "backup.tar.gz", replace=True, rewind=True)
    assert Registry(old.mlflow_backend).version("toy", 1).state is None
    assert (Path(done.aside) / "mlflow" / "postgresql.dump").stat().st_size > 1000


def test_the_stack_keeps_records_in_postgresql_and_files_in_s3(
    server: str, installation: Callable[..., Settings], release: Make, tmp_path: Path, object_store: str
) -> None:
    import boto3

    boto3.client("s3", endpoint_url=object_store).create_bucket(Bucket=BUCKET)
    settings = installation(
        "stack",
        MLFLOW_BACKEND_URI=make_database(server, "stack"),
        MLFLOW_ARTIFACTS_URL=f"s3://{BUCKET}/files",
        MLFLOW_PORT=str(free_port()),
    )
    service = next(item for item in services(settings) if item.name == "mlflow")
    variables = {**os.environ, **service.program.environment, "MLFLOW_S3_ENDPOINT_URL": object_store}
    with serving(service.program.command, tmp_path, variables, tmp_path / "mlflow.log", service.healthy):
        registry = Registry(settings)
        decided(registry, release)
        run_id = registry.client.get_model_version("toy", "1").run_id
        report = httpx.get(f"{settings.mlflow_url}/get-artifact", params={"path": "report.html", "run_uuid": run_id})
        assert report.text == "<p>report</p>"
    listed = boto3.client("s3", endpoint_url=object_store).list_objects_v2(Bucket=BUCKET)["Contents"]
    assert any(item["Key"].endswith(f"{run_id}/artifacts/report.html") for item in listed)
    in_home = {path.name for path in (settings.home / "mlflow").glob("*")}
    assert in_home <= {"own.key"}, "no record is in the home folder"
    production = Registry(settings.mlflow_backend).production("toy")
    assert production is not None and production.version == 1
    contents = back_up(settings, tmp_path / "backup.tar.gz")
    assert contents.mlflow_files == f"s3://{BUCKET}/files", "the backup says where the files are"


def test_a_password_in_the_address_is_refused_and_not_shown(installation: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsInvalid, match="PGPASSFILE") as refused:
        installation("x", MLFLOW_BACKEND_URI="postgresql://user:hunter2@localhost/mlflow")
    assert "hunter2" not in str(refused.value)


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """moto's S3 server, and credentials for it."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with s3.object_store() as endpoint:
        yield endpoint
