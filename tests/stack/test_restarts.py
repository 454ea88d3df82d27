"""`up` from another shell: what is started again and why, read from supervisord's files without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stack.environments import SERVICE_NAMES, keep_environments, shell_environments
from stack.restarts import reasons, shell_names, shell_notes
from stack.services import services
from tasks.serve.fleet.program import Program, program_section, read_program
from weighbridge.settings import Settings, load_settings

WORKER_ONLY = {
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "WEIGHBRIDGE_WEIGH_AT_ONCE": "3",
    "WEIGHBRIDGE_GPUS_FILE": "/srv/gpus.yaml",
    "WEIGHBRIDGE_STORE_URL": "s3://bucket/prefix",
    "WEIGHBRIDGE_ENGINE_PORT_FIRST": "9300",
    "WEIGHBRIDGE_PASS_ENVIRONMENT": "worker:MINE",
}
ANOTHER_SHELL = {
    "PATH": "/elsewhere",
    "LANG": "tlh_KL.UTF-8",
    "HF_TOKEN": "hf_another",
    "https_proxy": "http://ada:pa55word@proxy:3128",
    "MY_OWN": "1",
    "WEIGHBRIDGE_USER": "bo",
    "CUDA_VISIBLE_DEVICES": "1",
    "VIRTUAL_ENV": "/elsewhere",
}
Started = dict[str, Program]


@pytest.fixture
def started(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    """Programs of a stack that another shell started, as supervisord's files have them, and its record."""
    monkeypatch.setenv("HF_TOKEN", "hf_first")
    settings = load_settings()
    keep_environments(settings, shell_environments(settings))
    settings.stack_file.write_text(json.dumps(settings.model_dump(mode="json")))
    return {service.name: as_read(service.program, own_home) for service in services(settings)}


def as_read(program: Program, folder: Path) -> Program:
    """A program as it is read back from its file."""
    (path := folder / f"{program.name}.conf").write_text(program_section(program))
    read = read_program(program.name, path)
    assert read is not None
    return read


def asked_again(started: Started, settings: Settings | None = None) -> dict[str, list[str]]:
    """Reasons of an `up` now, by service, of those that it starts again."""
    settings = settings or load_settings()
    requested = services(settings, shell_environments(settings))
    names = shell_names(settings)
    found = {
        service.name: reasons(started[service.name], service.program, names[service.name]) for service in requested
    }
    return {name: why for name, why in found.items() if why}


def test_another_shell_starts_nothing_again(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ANOTHER_SHELL.items():
        monkeypatch.setenv(name, value)
    assert asked_again(started) == {}
    [(_, sentence), *_] = [note for note in shell_notes(load_settings()) if note[0] == "worker"]
    assert "HF_TOKEN" in sentence and "weighbridge restart worker" in sentence
    assert "hf_another" not in sentence and "pa55word" not in sentence


@pytest.mark.parametrize("variable", WORKER_ONLY)
def test_a_setting_of_the_workers_starts_only_the_worker_again(
    started: Started, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, WORKER_ONLY[variable])
    monkeypatch.setenv("MINE", "passed on")
    assert set(asked_again(started)) == {"worker"}


@pytest.mark.parametrize(
    ("variable", "value", "concerned"),
    [
        ("WEIGHBRIDGE_MLFLOW_PORT", "5001", {"mlflow", "worker", "webhook"}),
        ("WEIGHBRIDGE_PREFECT_PORT", "4201", {"prefect", "worker", "webhook"}),
        ("WEIGHBRIDGE_GATEWAY_PORT", "8081", {"gateway", "worker"}),
        ("WEIGHBRIDGE_GATEWAY_METRICS_PORT", "9100", {"gateway"}),
        ("WEIGHBRIDGE_WEBHOOK_PORT", "8091", {"webhook"}),
        ("WEIGHBRIDGE_MLFLOW_HOSTS", "mlflow.example.com", {"mlflow"}),
        ("WEIGHBRIDGE_PREFECT_PAGE_URL", "https://prefect.example.com", {"prefect"}),
        ("WEIGHBRIDGE_HOST", "127.0.0.2", set(SERVICE_NAMES)),
    ],
)
def test_a_changed_setting_starts_those_again_that_use_it_and_is_the_reason(
    started: Started, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, concerned: set[str]
) -> None:
    monkeypatch.setenv(variable, value)
    found = asked_again(started)
    assert found.keys() == concerned
    for why in found.values():
        assert len(why) == 1 and why[0].startswith(f"{variable} ") and why[0].endswith(f"→ {value}")


def test_a_setting_that_is_taken_back_is_a_reason_too(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    before = started["gateway"]
    metrics = {**before.environment, "WEIGHBRIDGE_GATEWAY_METRICS_PORT": "9100"}
    started["gateway"] = before.model_copy(update={"environment": metrics})
    assert asked_again(started) == {"gateway": ["WEIGHBRIDGE_GATEWAY_METRICS_PORT 9100 → (unset)"]}


def test_a_stack_of_an_older_version_keeps_its_gateway(started: Started) -> None:
    everything = {**load_settings().as_environment(), **load_settings().library_environment()}
    for name, program in started.items():
        own = {key: value for key, value in program.environment.items() if key[:16] != "WEIGHBRIDGE_SOFT"}
        own.pop("WEIGHBRIDGE_GATEWAY_CONFIGURATION", None)
        started[name] = program.model_copy(update={"environment": {**everything, **own, "OPENAI_API_KEY": ""}})
    found = asked_again(started)
    assert "gateway" not in found
    assert all(why[0].startswith("an upgrade, to weighbridge") for why in found.values())


def test_an_upgrade_is_a_reason_for_what_it_brings(started: Started) -> None:
    older = dict.fromkeys(("gateway", "mlflow"), "1.0")
    for name in older:
        environment = {**started[name].environment, "WEIGHBRIDGE_SOFTWARE": "weighbridge 0.0.1"}
        started[name] = started[name].model_copy(update={"environment": environment})
    found = asked_again(started)
    assert found.keys() == older.keys()
    assert all(why[0].startswith("an upgrade: ") and "was weighbridge 0.0.1" in why[0] for why in found.values())


def test_a_changed_secret_is_a_reason_and_is_not_shown(started: Started) -> None:
    settings = load_settings()
    (secret := settings.home / "prefect" / "auth-string").parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("weighbridge:n0t-shown")
    assert asked_again(started) == {name: ["its secret changed"] for name in ("prefect", "worker")}


def test_a_password_in_an_address_is_not_shown(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://ada:pa55word@mirror.example.com")
    [why] = asked_again(started)["worker"]
    assert "pa55word" not in why and "mirror.example.com" in why


def test_a_store_that_is_named_later_brings_its_keys_and_only_those(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-this-shell")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    monkeypatch.setenv("WEIGHBRIDGE_STORE_URL", "s3://bucket/prefix")
    given = shell_environments(load_settings())["worker"]
    assert given["AWS_SECRET_ACCESS_KEY"] == "of-this-shell" and given["HF_TOKEN"] == "hf_first"
    why = asked_again(started)["worker"]
    assert "AWS_SECRET_ACCESS_KEY changed" in why and not any("of-this-shell" in reason for reason in why)


def test_a_restarted_service_takes_over_this_shells_variables_and_keeps_the_others(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert shell_environments(load_settings(), take=["worker"])["worker"]["HF_TOKEN"] == "hf_another"
    monkeypatch.delenv("HF_TOKEN")
    assert shell_environments(load_settings(), take=["worker"])["worker"]["HF_TOKEN"] == "hf_first"


def test_a_damaged_program_file_is_a_reason(own_home: Path, started: Started) -> None:
    (path := own_home / "worker.conf").write_bytes(b"\xff[program")
    assert read_program("worker", path) is None
    after = next(service.program for service in services(load_settings()) if service.name == "worker")
    assert reasons(None, after, ()) == ["supervisord's file of it is missing or damaged"]
