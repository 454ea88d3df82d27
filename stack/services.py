"""The services of the stack: how each is started, and how its health is checked."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
from pydantic import BaseModel, ConfigDict

from registry.accounts import PIPELINE
from registry.webhooks import Keys
from stack.environments import kept_environments, service_environment
from tasks.serve.fleet.program import Program
from tasks.serve.gateway import Gateway
from weighbridge import prefect_api
from weighbridge.deployments import POOL as POOL
from weighbridge.settings import Settings

POOL_TYPE = "process"
SECRET_MARK = "WEIGHBRIDGE_PREFECT_SECRET_MARK"
CONFIGURATION_MARK = "WEIGHBRIDGE_GATEWAY_CONFIGURATION"


class Service(BaseModel):
    """One long-lived process of the stack."""

    model_config = ConfigDict(frozen=True)

    name: str
    program: Program
    port: int | None = None
    port_variable: str = ""
    """Variable to set when the port is taken."""
    health_url: str = ""
    page_url: str = ""
    """Page for a person."""
    ready_seconds: float = 120
    """Processor time within which it is ready; on an idle machine about the time that a person waits."""
    flows_need: bool = True
    """True if flows cannot run without it."""

    def healthy(self, seconds: float = 5) -> bool:
        """True if it answers in time. A service without an address is judged by its process alone."""
        if not self.health_url:
            return True
        try:
            # Asked by its address, whatever host name its certificate is for, and whatever proxy this shell has.
            answer = httpx.get(self.health_url, timeout=seconds, verify=False, trust_env=False)
            return answer.status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


def services(settings: Settings, shell: Mapping[str, Mapping[str, str]] | None = None) -> tuple[Service, ...]:
    """The stack's services, in the order in which they are shown.

    Args:
        settings: Of the installation.
        shell: What each gets of a shell's environment; by default what is noted of the one that started the stack.
    """
    given = (kept_environments(settings) or {}) if shell is None else shell
    all_services = (_mlflow(settings), _prefect(settings), _worker(settings), _gateway(settings), _webhook(settings))
    return tuple(_with_shell(service, given.get(service.name, {})) for service in all_services)


def _with_shell(service: Service, given: Mapping[str, str]) -> Service:
    program = service.program
    program = program.model_copy(update={"environment": {**given, **program.environment}})
    return service.model_copy(update={"program": program})


def _mlflow(settings: Settings) -> Service:
    folder = settings.home / "mlflow"
    command = (
        _tool("mlflow"),
        "server",
        "--host",
        settings.host,
        "--port",
        str(settings.mlflow_port),
        "--backend-store-uri",
        settings.mlflow_backend,
        "--artifacts-destination",
        settings.mlflow_artifacts_url or str(folder / "artifacts"),
        "--serve-artifacts",
        # A client must not choose the address that the audit log names.
        "--uvicorn-opts=--no-proxy-headers",
        "--workers",
        "1",
        # MLflow's own app, with the audit log, and with accounts where they are switched on.
        "--app-name",
        "weighbridge",
    )
    # Without job execution the server takes half the time and memory to start. Nothing here uses jobs.
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WEIGHBRIDGE_MLFLOW_AUTH": str(settings.mlflow_auth),
        **webhook_environment(settings),
    }
    return Service(
        name="mlflow",
        program=_program(settings, "mlflow", command, environment, folder),
        port=settings.mlflow_port,
        port_variable="WEIGHBRIDGE_MLFLOW_PORT",
        health_url=f"{settings.mlflow_url}/health",
        page_url=settings.mlflow_url,
        # The first start makes the tables of two databases.
        ready_seconds=240,
    )


def _prefect(settings: Settings) -> Service:
    command = (sys.executable, "-m", "stack.prefect_server")
    # Leases are kept on disk. In memory they die with the server, and with them what frees the slot of a run that was
    # killed too: after a restart of the machine no later `promote` would ever begin.
    environment = {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # Its page calls the server that it came from; no page of another site may.
        "PREFECT_UI_API_URL": "/api",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": settings.prefect_page_url or settings.prefect_url,
        **_secret_mark(settings),
    }
    return Service(
        name="prefect",
        program=_program(settings, "prefect", command, environment, settings.home / "prefect"),
        port=settings.prefect_port,
        port_variable="WEIGHBRIDGE_PREFECT_PORT",
        health_url=f"{settings.prefect_url}/api/health",
        page_url=settings.prefect_url,
    )


def _secret_mark(settings: Settings) -> dict[str, str]:
    """A variable that changes with the secret: a service with the old one is started again."""
    return {SECRET_MARK: prefect_api.secret_mark(settings)}


def _worker(settings: Settings) -> Service:
    command = (sys.executable, "-m", "stack.worker")
    # The default poll of 10 s makes a person wait for the first line of a run.
    environment = {
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PYTHONUNBUFFERED": "1",
        "WEIGHBRIDGE_MLFLOW_AUTH": str(settings.mlflow_auth),
        **_secret_mark(settings),
    }
    if settings.mlflow_auth:
        # The worker always signs in as the pipeline; its password is on file.
        environment["MLFLOW_TRACKING_USERNAME"] = PIPELINE
    # It alone signs. The others verify, by public keys.
    if settings.signing_key:
        environment["WEIGHBRIDGE_SIGNING_KEY"] = settings.signing_key
    return Service(name="worker", program=_program(settings, "worker", command, environment, settings.root))


def _gateway(settings: Settings) -> Service:
    gateway = Gateway(settings)
    # Envoy reads it once, when it starts.
    mark = {CONFIGURATION_MARK: hashlib.sha256(gateway.bootstrap_text().encode()).hexdigest()[:16]}
    return Service(
        name="gateway",
        program=_program(settings, "gateway", tuple(gateway.envoy_command()), mark, settings.home / "gateway"),
        port=settings.gateway_port,
        port_variable="WEIGHBRIDGE_GATEWAY_PORT",
        health_url=f"{settings.gateway_url}/healthz",
        page_url=f"{settings.gateway_url}/v1",
        ready_seconds=30,
    )


def webhook_environment(settings: Settings) -> dict[str, str]:
    """Variables that let MLflow call a receiver on loopback, and encrypt the secret that signs its calls."""
    # The key is made when it is first read. To ask for the state of a home that does not exist must not make one.
    key = Keys(settings.home / "webhook").encryption if settings.home.is_dir() else ""
    return {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": key,
    }


def _webhook(settings: Settings) -> Service:
    command = (sys.executable, "-m", "stack.receiver")
    environment = {"WEIGHBRIDGE_MLFLOW_AUTH": str(settings.mlflow_auth)}
    return Service(
        name="webhook",
        program=_program(settings, "webhook", command, environment, settings.root),
        port=settings.webhook_port,
        port_variable="WEIGHBRIDGE_WEBHOOK_PORT",
        # Loopback, whatever host the others bind to.
        health_url=f"http://127.0.0.1:{settings.webhook_port}/health",
        flows_need=False,
    )


def _program(
    settings: Settings, name: str, command: tuple[str, ...], environment: dict[str, str], folder: Path
) -> Program:
    everything = {**service_environment(name, settings), **environment}
    return Program(
        name=name, command=command, environment=everything, folder=folder, log=settings.logs_folder / f"{name}.log"
    )


def _tool(name: str) -> str:
    """A program of this Python environment, whatever PATH says."""
    return str(Path(sys.executable).with_name(name))
