"""Permissions of each role on a real MLflow with accounts, and the audit log of their requests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from registry import accounts
from registry.access.admin_api import Accounts
from registry.access.grants import Granting
from registry.access.roles import Roles
from registry.audit import AuditLog, Entry
from registry.models.client import connect
from registry.models.records import ReleaseRecord
from registry.models.registry import Registry
from registry.webhooks import ensure_webhook
from weighbridge.errors import RegistryDenied, RegistryFailed, VerdictUnsigned
from weighbridge.line import Approval
from weighbridge.settings import Settings

pytestmark = pytest.mark.timeout(400)
Make = Callable[..., ReleaseRecord]
COPY = {"name": "toy", "source": "models:/toy-candidates/1"}


def password(settings: Settings, who: str) -> str:
    return accounts.read_password(accounts.password_file(settings, who))


@contextmanager
def signed_in(settings: Settings, who: str) -> Iterator[Registry]:
    with accounts.signed_in(who, password(settings, who)):
        yield Registry(settings)


def request(settings: Settings, who: str, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
    """Send a request as MLflow's page does."""
    address = f"{settings.mlflow_url}/ajax-api/2.0/mlflow/{path}"
    return httpx.request(method, address, json=body, auth=(who, password(settings, who)), timeout=60)


@pytest.fixture
def settings(accounts_server: Settings, release: Make) -> Settings:
    """Settings of a server with two candidates of `toy`, recorded by the pipeline's account."""
    Registry(accounts_server).record_release(release())
    return accounts_server


def entries(action: str = "") -> list[Entry]:
    AuditLog().verify()
    return [entry for entry in AuditLog().entries("toy") if entry.action.startswith(action)]


def test_the_server_enforces_each_role(settings: Settings) -> None:
    assert request(settings, "ada", "POST", "model-versions/create", COPY).status_code == 200, "the reviewer approves"
    alias = {"name": "toy", "alias": "production", "version": "1"}
    tag = {"name": "toy", "version": "1", "key": "weighbridge.state", "value": "serving"}
    candidate = {"name": "toy-candidates", "source": f"store://toy/{'a' * 64}"}
    expected = {
        ("POST", "model-versions/create", "candidate"): {"bo"},
        ("POST", "model-versions/create", "copy"): {"ada"},
        ("POST", "registered-models/alias", "alias"): {"oz"},
        ("DELETE", "registered-models/alias", "alias"): {"oz"},
        ("POST", "model-versions/set-tag", "tag"): {"ada", "oz"},
        ("POST", "registered-models/rename", "rename"): set(),
        ("POST", "registered-models/create", "create"): set(),
        ("DELETE", "registered-models/delete", "delete"): set(),
        ("DELETE", "model-versions/delete", "version"): set(),
        ("POST", "experiments/create", "experiment"): set(),
        ("POST", "experiments/update", "renamed"): set(),
    }
    experiment = Registry(settings).client.get_experiment_by_name("toy")
    assert experiment is not None
    bodies = {
        "candidate": candidate,
        "copy": COPY,
        "alias": alias,
        "tag": tag,
        "rename": {"name": "toy", "new_name": "mine"},
        "create": {"name": "mine"},
        "delete": {"name": "toy"},
        "version": {"name": "toy", "version": "1"},
        "experiment": {"name": "a line of tomorrow"},
        "renamed": {"experiment_id": experiment.experiment_id, "new_name": "mine"},
    }
    before = len(entries("mlflow."))
    allowed = {
        key: {who for who in ("ada", "bo", "oz") if _may(request(settings, who, key[0], key[1], bodies[key[2]]))}
        for key in expected
    }
    assert allowed == expected
    assert len(entries("mlflow.")) == before + sum(map(len, expected.values())), "refused requests are not logged"


def _may(answer: httpx.Response) -> bool:
    assert answer.status_code in (200, 403), answer.text
    return answer.status_code == 200


def test_the_pipeline_proposes_and_moves_traffic_but_cannot_approve(settings: Settings) -> None:
    pipeline = Registry(settings)
    with pytest.raises(RegistryDenied, match="weighbridge is signed in and does not hold the role reviewer of toy"):
        pipeline.approve("toy", 1, "mine is fine", "somebody else")
    with signed_in(settings, "ada") as registry:
        approved = registry.approve("toy", 2, "read it all", "ada")
        with pytest.raises(RegistryDenied, match="ada is signed in and does not hold the role operator of toy"):
            registry.set_production("toy", approved.version)

    pipeline.check_approval(approved, Approval())
    pipeline.set_state("toy", approved.version, "rolling")
    pipeline.set_previous("toy", approved.version)
    pipeline.set_production("toy", approved.version)
    pipeline.set_previous("toy", None)
    production = pipeline.production("toy")
    assert production is not None and production.state_reason == "approved by ada"
    assert pipeline.previous("toy") is None

    assert AuditLog().approver("toy", approved.version) == "ada"
    version_entries = [entry for entry in entries() if entry.version == approved.version and entry.model in ("", "toy")]
    assert [(entry.who, entry.action) for entry in version_entries][:1] == [("ada", "mlflow.create_model_version")]
    assert {entry.who for entry in version_entries if entry.action == "mlflow.set_registered_model_alias"} == {
        "weighbridge"
    }
    assert all(
        entry.address == "127.0.0.1" and entry.request
        for entry in version_entries
        if entry.action.startswith("mlflow.")
    )


def test_a_click_is_attributed_to_the_signed_in_account(settings: Settings) -> None:
    body = {**COPY, "tags": [{"key": "weighbridge.approved_by", "value": "the boss"}]}
    answer = request(settings, "ada", "POST", "model-versions/create", body)
    number = int(answer.json()["model_version"]["version"])
    created = next(
        entry for entry in entries("mlflow.create_model_version") if entry.version == number and entry.model == "toy"
    )
    assert (created.who, created.request) == ("ada", answer.headers["X-Request-Id"])
    assert AuditLog().approver("toy", number) == "ada"


def test_unknown_accounts_are_refused(settings: Settings) -> None:
    for name, key in (("ada", "not her password"), ("eve", "eve has no account")):
        with accounts.signed_in(name, key), pytest.raises(RegistryDenied, match=f"does not know {name}"):
            Registry(settings).candidates("toy")
    assert httpx.get(f"{settings.mlflow_url}/api/2.0/mlflow/registered-models/search").status_code == 401


def test_roles_are_granted_revoked_and_not_granted_twice(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = {"ada": {"reviewer": "all"}, "bo": {"builder": "all"}, "oz": {"operator": "all"}}
    granting = Granting(settings, ["clicked", "toy"])

    def apply(users: dict[str, Any], dry_run: bool = False) -> list[str]:
        return granting.apply(Roles.model_validate({"users": users}), lambda text: None, dry_run)

    assert apply(everyone) == []
    monkeypatch.setenv("WEIGHBRIDGE_PASSWORD_KIM", "kim's long password")
    more = {**everyone, "kim": {"reviewer": ["toy"]}}
    would = apply(more, dry_run=True)
    assert would == ["account kim: created, password from $WEIGHBRIDGE_PASSWORD_KIM", "kim becomes reviewer of toy"]
    assert apply(more) == would and apply(more) == []
    kim = ("kim", "kim's long password")
    create = f"{settings.mlflow_url}/api/2.0/mlflow/model-versions/create"
    assert httpx.post(create, json=COPY, auth=kim).status_code == 200

    monkeypatch.setenv("WEIGHBRIDGE_PASSWORD_KIM", "kim's other password")
    assert apply(everyone) == ["kim is no longer reviewer of toy"]
    assert httpx.post(create, json=COPY, auth=kim).status_code == 403
    assert apply(more) == [
        "account kim: its password becomes that of $WEIGHBRIDGE_PASSWORD_KIM",
        "kim becomes reviewer of toy",
    ]
    assert httpx.post(create, json=COPY, auth=kim).status_code == 401
    assert apply(everyone) == ["kim is no longer reviewer of toy"]
    assignments = [entry for entry in AuditLog().entries("") if entry.action == "mlflow.roles.assign"]
    assert assignments[-1].who == "admin" and assignments[-1].what == "username kim, role reviewer:toy"
    assert "password" not in AuditLog().path.read_text().replace("users.update-password", "")


def test_rights_that_no_file_gives_are_taken(settings: Settings) -> None:
    everyone = {"ada": {"reviewer": "all"}, "bo": {"builder": "all"}, "oz": {"operator": "all"}}
    granting = Granting(settings, ["clicked", "toy"])
    with accounts.signed_in(accounts.ADMIN, password(settings, accounts.ADMIN)):
        mlflow = Accounts(settings.mlflow_url)
        role = mlflow.create_role("everything")
        mlflow.add_right(role.id, "registered_model", "toy", "MANAGE")
        mlflow.assign("bo", role.id)
    # As by MLflow's requests about permissions, which are refused here, or as the creator of an experiment.
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    database = SqlAlchemyStore()
    database.init_db(f"sqlite:///{settings.home}/mlflow/auth.db")
    database.grant_user_permission("bo", "registered_model", "toy", "MANAGE")
    body = {"username": "bo", "is_admin": True}
    assert request(settings, accounts.ADMIN, "PATCH", "users/update-admin", body).status_code == 200

    changes = granting.apply(Roles.model_validate({"users": everyone}), lambda text: None)
    assert changes == [
        "bo is no longer an admin",
        "bo loses MANAGE registered_model toy: no role has it",
        "bo is no longer everything",
    ]
    assert granting.apply(Roles.model_validate({"users": everyone}), lambda text: None) == []
    assert request(settings, "bo", "POST", "model-versions/create", COPY).status_code == 403


def test_lists_of_accounts_and_webhooks_are_for_admins(settings: Settings) -> None:
    paths = ("2.0/mlflow/users/list", "2.0/mlflow/webhooks", "3.0/mlflow/roles/list?workspace=default")
    roles = "3.0/mlflow/users/roles/list?username="
    for prefix in ("api", "ajax-api"):
        for path in (*paths, f"{roles}bo"):
            address = f"{settings.mlflow_url}/{prefix}/{path}"
            assert httpx.get(address, auth=("ada", password(settings, "ada")), timeout=60).status_code == 403, address
            admin = (accounts.ADMIN, password(settings, accounts.ADMIN))
            assert httpx.get(address, auth=admin, timeout=60).status_code == 200, address
    own = httpx.get(f"{settings.mlflow_url}/api/{roles}ada", auth=("ada", password(settings, "ada")), timeout=60)
    assert {role["name"] for role in own.json()["roles"]} == {"reviewer:clicked", "reviewer:toy"}
    refused = [entry for entry in AuditLog().entries("") if entry.action == "mlflow.refused"]
    assert ("ada", "GET /api/2.0/mlflow/users/list") in {(entry.who, entry.what) for entry in refused}


def test_no_secret_is_in_a_log_or_a_configuration(settings: Settings) -> None:
    secrets = [password(settings, who) for who in ("admin", "weighbridge", "ada", "bo", "oz")]
    password_folder = settings.home / "mlflow" / "passwords"
    for path in settings.home.rglob("*"):
        if path.is_file() and path.parent != password_folder and path.stat().st_size < 10_000_000:
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), path


def test_only_the_administrator_creates_the_webhook(settings: Settings) -> None:
    def make(account: tuple[str, str] | None) -> None:
        ensure_webhook(settings.mlflow_url, "http://127.0.0.1:9/mlflow", "secret" * 8, account)

    make(accounts.administrator(settings))
    pipeline = (accounts.PIPELINE, accounts.read_password(accounts.password_file(settings, accounts.PIPELINE)))
    for account, status in ((pipeline, "403"), (None, "401")):
        with pytest.raises(RegistryFailed, match=status):
            make(account)


def test_a_builders_forged_pass_is_refused(settings: Settings, release: Make) -> None:
    """A builder registers a candidate that nobody weighed, and a reviewer who believes its tags clicks."""
    (good, _) = Registry(settings).candidates("toy")[-2:]
    tags = {**good.tags, "weighbridge.digest": "d" * 64}
    body = [{"key": name, "value": value} for name, value in tags.items()]
    made = request(
        settings,
        "bo",
        "POST",
        "model-versions/create",
        {"name": "toy-candidates", "source": f"store://toy/{'d' * 64}", "tags": body, "description": "**No worse.**"},
    )
    number = made.json()["model_version"]["version"]
    with signed_in(settings, "ada") as registry, pytest.raises(VerdictUnsigned, match="about something else"):
        registry.approve("toy", int(number), "it says that it passes", "ada")
    clicked = request(
        settings,
        "ada",
        "POST",
        "model-versions/create",
        {"name": "toy", "source": f"models:/toy-candidates/{number}", "tags": body},
    )
    approved = Registry(settings).version("toy", int(clicked.json()["model_version"]["version"]))
    with pytest.raises(VerdictUnsigned, match="about something else"):
        Registry(settings).check_approval(approved, Approval())


def test_a_builder_edits_a_candidate_and_the_pipeline_mends_it(settings: Settings, release: Make) -> None:
    record = release(key="edited", variant="edited", failing=("int4",))
    recorded = Registry(settings).record_release(record)
    digests = {candidate.artifact.digest for candidate in record.candidates}
    number = str(recorded.candidates[0].version)
    version = {"name": "toy-candidates", "version": number}
    edits = [
        ("POST", "model-versions/set-tag", {**version, "key": "weighbridge.verdict", "value": "Better."}),
        ("POST", "model-versions/set-tag", {**version, "key": "weighbridge.signed_verdict", "value": ""}),
        ("POST", "model-versions/set-tag", {**version, "key": "weighbridge.approved_by", "value": "ada"}),
        ("PATCH", "model-versions/update", {**version, "description": "**Better.**"}),
    ]
    for method, path, body in edits:
        assert request(settings, "bo", method, path, body).status_code == 200
    assert not Registry(settings).is_intact("toy", digests)
    assert Registry(settings).record_release(record) == recorded
    assert Registry(settings).is_intact("toy", digests)


def test_a_reviewer_overrides_a_failed_candidate_by_its_signed_verdict(settings: Settings, release: Make) -> None:
    record = release(key="failed", variant="failed", failing=("int4",))
    Registry(settings).record_release(record)
    rules = Approval(overriders=["ada"])
    with signed_in(settings, "ada") as registry:
        version = registry.override("toy", record.candidates[1].artifact.digest, "needed", "ada", rules)
    Registry(settings).check_approval(version, rules)


def test_the_quick_client_reads_what_mlflows_own_client_reads_without_its_import(settings: Settings) -> None:
    with signed_in(settings, "ada") as registry:
        registry.approve("toy", 1, "read — it all", "ada")
    with signed_in(settings, "oz") as registry:
        registry.set_production("toy", 1)
        whole = connect(settings.mlflow_url)
        for model in ("toy", "toy-candidates", "nosuch"):
            name = f"name='{model}'"
            quick_models, models = registry.client.search_registered_models(name), whole.search_registered_models(name)
            assert [found.aliases for found in quick_models] == [
                {alias: str(version) for alias, version in found.aliases.items()} for found in models
            ]
            for found, expected in zip(
                registry.client.search_model_versions(name), whole.search_model_versions(name), strict=True
            ):
                for field in ("name", "version", "source", "run_id", "tags", "creation_timestamp"):
                    assert getattr(found, field) == getattr(expected, field), field
                assert (found.description or "") == (expected.description or "")
        program = "import sys; from registry.models.registry import Registry; r = Registry(sys.argv[1]); "
        program += "print(len(r.candidates('toy')), r.production('toy').version, 'mlflow' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program, settings.mlflow_url], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [str(len(registry.candidates("toy"))), "1", "False"]


def test_pages_of_versions_are_followed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with signed_in(settings, "oz") as registry:
        in_one_page = registry.candidates("toy")
        monkeypatch.setattr("registry.models.reader.PAGE", 1)
        assert len(in_one_page) > 1 and registry.candidates("toy") == in_one_page
