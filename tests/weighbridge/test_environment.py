"""What a process gets of a shell's environment: what it needs, and no secret that it does not need."""

from __future__ import annotations

import pytest

from weighbridge.child_process import model_environment
from weighbridge.environment import PASS_VARIABLE, SERVICES, allowed_environment, private_environment
from weighbridge.errors import SettingsInvalid
from weighbridge.settings import load_settings

SECRETS = {
    "HF_TOKEN": "hf_secret",
    "AWS_ACCESS_KEY_ID": "id",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "PGPASSWORD": "secret",
    "OPENAI_API_KEY": "sk-secret",
    "GITHUB_TOKEN": "secret",
    "VLLM_API_KEY": "secret",
    "LLAMA_API_KEY": "secret",
    "WEIGHBRIDGE_PASSWORD_ADA": "secret",
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "secret",
    "PREFECT_API_KEY": "secret",
    "https_proxy": "http://ada:secret@proxy:3128",
}
NEEDED = {
    "PATH": "/bin",
    "LC_ALL": "C.UTF-8",
    "CUDA_VISIBLE_DEVICES": "0",
    "OMP_NUM_THREADS": "4",
    "LD_LIBRARY_PATH": "/opt/cuda",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WEIGHBRIDGE_HOME": "/srv",
}
ALLOWED_SECRETS = {
    "mlflow": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "https_proxy"},
    "worker": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "https_proxy"},
}


@pytest.mark.parametrize("kind", SERVICES)
def test_a_process_gets_what_it_needs_and_no_secret_of_others(kind: str) -> None:
    given = allowed_environment(kind, {**SECRETS, **NEEDED, "EDITOR": "vi", "a name%": "odd"})
    assert given.keys() == NEEDED.keys() | ALLOWED_SECRETS.get(kind, set())


def test_a_child_that_runs_a_model_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    given = model_environment()
    assert not SECRETS.keys() & given.keys() and given["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_user_may_pass_more_variables_to_all_or_to_one() -> None:
    shell = {"MINE": "1", "OURS": "2", "OTHER": "3", PASS_VARIABLE: " OURS, worker:MINE,"}
    assert allowed_environment("worker", shell) == {"MINE": "1", "OURS": "2", PASS_VARIABLE: shell[PASS_VARIABLE]}
    assert (
        "MINE" not in allowed_environment("supervisor", shell) and allowed_environment("gateway", shell)["OURS"] == "2"
    )


def test_a_service_gets_no_key_of_a_store_that_the_settings_do_not_name() -> None:
    shell = {**SECRETS, "AZURE_CLIENT_SECRET": "secret"}
    assert private_environment("worker", shell, {"object store", "key service"}).keys() == {"HF_TOKEN", "https_proxy"}
    assert "AZURE_CLIENT_SECRET" in private_environment("worker", shell, {"object store"})


def test_a_service_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASS_VARIABLE, "MINE, worke:MINE")
    with pytest.raises(SettingsInvalid, match=r"names worke; there are .*worker") as caught:
        load_settings()
    assert caught.value.where == PASS_VARIABLE
