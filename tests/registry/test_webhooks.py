"""Verification of webhook deliveries, their deduplication, and the creation of the webhook."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import httpx
import pytest

from registry.webhooks import (
    DELIVERY,
    REMEMBERED,
    SIGNATURE,
    TIMESTAMP,
    Keys,
    Seen,
    ensure_webhook,
    read_delivery,
)
from tests.support.mlflow_server import MlflowServer
from tests.support.ports import free_port
from weighbridge.errors import DeliveryRefused, RegistryFailed, StackDown

NOW = 1_790_000_000
CREATED = {"entity": "model_version", "action": "created", "timestamp": "…", "data": {"name": "toy", "version": "1"}}


def signed(content: object = CREATED, *, secret: str = "s3", at: int = NOW) -> tuple[dict[str, str], bytes]:
    """Headers and body as MLflow sends them, signed by MLflow's own function."""
    from mlflow.webhooks.delivery import _generate_hmac_signature

    body = json.dumps(content)
    signature = _generate_hmac_signature(secret, "id-1", str(at), body)
    return {SIGNATURE: signature, TIMESTAMP: str(at), DELIVERY: "id-1"}, body.encode()


def test_a_signed_delivery_is_accepted() -> None:
    delivery = read_delivery("s3", *signed(), NOW + 299)
    assert (delivery.id, delivery.model, delivery.asks_to_serve) == ("id-1", "toy", True)
    for alias, serves in (("production", True), ("previous", False)):
        moved = {"entity": "model_version_alias", "action": "created", "data": {"name": "toy", "alias": alias}}
        assert read_delivery("s3", *signed(moved), NOW).asks_to_serve is serves


@pytest.mark.parametrize("header", [SIGNATURE, TIMESTAMP, DELIVERY])
def test_a_header_that_is_missing_or_changed_is_a_forgery(header: str) -> None:
    headers, body = signed()
    for changed in ({**headers, header: f"{headers[header]}0"}, {k: v for k, v in headers.items() if k != header}):
        with pytest.raises(DeliveryRefused, match=r"not signed with this installation's secret|stale"):
            read_delivery("s3", changed, body, NOW)


def test_another_body_or_another_secret_is_a_forgery() -> None:
    headers, body = signed()
    with pytest.raises(DeliveryRefused, match="not signed"):
        read_delivery("s3", headers, body.replace(b"toy", b"boy"), NOW)
    with pytest.raises(DeliveryRefused, match="not signed"):
        read_delivery("other", headers, body, NOW)
    with pytest.raises(DeliveryRefused, match="not signed"):
        read_delivery("s3", {**headers, SIGNATURE: "v1,Grüße"}, body, NOW)


def test_deliveries_from_the_future_or_older_than_five_minutes_are_stale() -> None:
    for now in (NOW + 301, NOW + 3600, NOW - 301):
        with pytest.raises(DeliveryRefused, match="stale"):
            read_delivery("s3", *signed(), now)


def test_signed_invalid_bodies_are_refused() -> None:
    contents: tuple[object, ...] = ([], {"entity": "model_version"}, "text")
    for content in contents:
        with pytest.raises(DeliveryRefused, match="cannot be read"):
            read_delivery("s3", *signed(content), NOW)


def test_keys_are_generated_once_and_private(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "webhook")
    assert keys.secret == Keys(tmp_path / "webhook").secret != keys.encryption
    from cryptography.fernet import Fernet

    Fernet(keys.encryption)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "webhook").iterdir()}
    assert modes == {0o600}


def test_delivery_ids_survive_a_restart_and_expire(tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    deliveries = Seen(path)
    for number in range(REMEMBERED + 5):
        deliveries._ids[str(number)] = None
    deliveries.add("last")
    reloaded = Seen(path)
    assert "last" in reloaded and "6" in reloaded and "5" not in reloaded
    assert len(json.loads(path.read_text())) == REMEMBERED
    path.write_text("{broken")
    assert "last" not in Seen(path)


@pytest.mark.timeout(400)
def test_ensure_webhook_leaves_exactly_one_webhook(mlflow_server: MlflowServer) -> None:
    api = f"{mlflow_server.url}/api/2.0/mlflow/webhooks"

    def list_webhooks() -> list[dict[str, object]]:
        return [item for item in httpx.get(api).json().get("webhooks", []) if item["name"] == "weighbridge"]

    first, second = (f"http://127.0.0.1:{free_port()}/mlflow" for _ in range(2))
    ensure_webhook(mlflow_server.url, first, "a")
    [webhook] = list_webhooks()
    ensure_webhook(mlflow_server.url, first, "a")
    assert [item["webhook_id"] for item in list_webhooks()] == [webhook["webhook_id"]]
    foreign = {**{name: webhook[name] for name in ("events", "url")}, "name": "weighbridge", "secret": "old"}
    httpx.post(api, json=foreign).raise_for_status()
    httpx.patch(f"{api}/{webhook['webhook_id']}", json={"status": "DISABLED"}).raise_for_status()
    ensure_webhook(mlflow_server.url, second, "b")
    [updated] = list_webhooks()
    assert (updated["url"], updated["status"], len(updated["events"])) == (second, "ACTIVE", 2)  # type: ignore[arg-type]
    with pytest.raises(RegistryFailed, match="refuses the webhook: HTTP 400"):
        ensure_webhook(mlflow_server.url, "ftp://127.0.0.1/", "b")


def test_an_unreachable_mlflow_is_reported() -> None:
    with pytest.raises(StackDown):
        ensure_webhook(f"http://127.0.0.1:{free_port()}", "http://127.0.0.1:1/mlflow", "a")
