"""TLS on the gateway's listener, and the port for Prometheus, with a real Envoy."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tasks.serve.gateway import Gateway
from tests.serve.gateway.gateway_support import Running
from tests.support.ports import free_port
from tests.support.waiting import wait_for
from weighbridge.errors import SettingsInvalid
from weighbridge.settings import Settings

pytestmark = pytest.mark.server


def issue(folder: Path, serial: int) -> None:
    """A new certificate and key, renamed into place as a renewal is."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), serial, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("gateway.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for file, data in (("key.pem", private), ("tls.pem", certificate.public_bytes(pem))):
        (folder / f".{file}").write_bytes(data)
        (folder / f".{file}").replace(folder / file)


def secured(home: Path, **more: object) -> Settings:
    files = {"gateway_tls_certificate": home / "tls.pem", "gateway_tls_key": home / "key.pem"}
    return Settings.model_validate({"home": home, "gateway_port": free_port(), **files, **more})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("tls")
    issue(home, 1000)
    running = Running(Gateway(secured(home, gateway_metrics_port=free_port())))
    try:
        running.start()
        yield running
    finally:
        running.stop()


def serial(running: Running) -> int:
    address = ("127.0.0.1", running.gateway.settings.gateway_port)
    return x509.load_pem_x509_certificate(ssl.get_server_certificate(address).encode()).serial_number


def test_tls_is_required_of_clients(running: Running) -> None:
    settings = running.gateway.settings
    assert settings.gateway_url.startswith("https://")
    assert running.request("/v1/models").status_code == 200
    context = ssl.create_default_context(cafile=str(settings.gateway_tls_certificate))
    with httpx.Client(verify=context, trust_env=False) as client:
        answer = client.get(f"{settings.gateway_url}/healthz", extensions={"sni_hostname": "gateway.test"})
    assert answer.json() == {"status": "ok"}
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{settings.gateway_port}/healthz", trust_env=False)


def test_a_renewed_certificate_is_loaded_without_a_restart(running: Running) -> None:
    assert serial(running) == 1000
    issue(running.gateway.settings.home, 2000)
    wait_for(lambda: serial(running) == 2000, seconds=15)
    assert running.request("/v1/models").status_code == 200


def test_the_metrics_port_serves_only_metrics(running: Running) -> None:
    base = f"http://127.0.0.1:{running.gateway.settings.gateway_metrics_port}"
    with httpx.Client(base_url=base, trust_env=False) as client:
        response = client.get("/metrics")
        assert response.status_code == 200 and "envoy_server_uptime" in response.text
        for path in ("/", "/stats", "/config_dump", "/metrics/../config_dump", "/quitquitquit"):
            assert client.get(path).status_code == 404, path
        assert client.post("/metrics").status_code == 404


@pytest.mark.parametrize(
    ("certificate", "key", "complaint"),
    [
        ("nosuch.pem", "key.pem", "No such file"),
        ("tls.pem", "nosuch.pem", "No such file"),
        ("tls.pem", "other/key.pem", "does not belong"),
        ("key.pem", "key.pem", "it is not PEM"),
        ("tls.pem", None, "only one of them"),
        (None, "key.pem", "only one of them"),
    ],
)
def test_unusable_tls_files_are_refused_before_envoy_starts(
    tmp_path: Path, certificate: str | None, key: str | None, complaint: str
) -> None:
    (tmp_path / "other").mkdir()
    issue(tmp_path, 1)
    issue(tmp_path / "other", 2)
    files = {"gateway_tls_certificate": certificate, "gateway_tls_key": key}
    paths = {name: tmp_path / file if file else None for name, file in files.items()}
    with pytest.raises(SettingsInvalid, match=complaint):
        Gateway(secured(tmp_path, **paths)).bootstrap()
