"""Settings of an installation: its folders, its ports, and the addresses of its servers.

They come, strongest first, from `WEIGHBRIDGE_*` variables, from the record that `weighbridge up` made of the running
stack (`<home>/stack.json`), and from the defaults below. So every shell finds a stack that was started on other ports.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from weighbridge.environment import SERVICES, unknown_kinds
from weighbridge.errors import SettingsInvalid
from weighbridge.home import PREFIX, RECORD, home_folder, project_root
from weighbridge.private_files import keep_files_private, require_own_home
from weighbridge.settings_sources import LARGEST_OFFSET, MovedPorts, StackRecord


class Settings(BaseSettings):
    """Settings of one installation; each field is `WEIGHBRIDGE_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    root: Path = Field(default_factory=project_root, description="folder with lines/ and eval_suites/")
    home: Path = Field(default_factory=home_folder, description="folder of all state")
    host: str = Field("127.0.0.1", description="address that every service listens on")
    port_offset: int = Field(
        0,
        ge=0,
        le=LARGEST_OFFSET,
        description="added to the default port of every service and engine, for a second installation on a machine; "
        "a port with a variable of its own is not moved; `weighbridge up --port-offset N` is remembered for the home",
    )
    gateway_port: int = Field(8080, ge=1, le=65535, description="port for the clients of the models")
    gateway_connections: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="most open connections of clients; further ones are closed. Each takes two of the machine's open "
        "files (`ulimit -Hn`) while a request is answered",
    )
    gateway_log_mib: int = Field(
        256, ge=1, description="size in MiB at which a log of requests is rotated; it is rotated daily anyway"
    )
    gateway_log_days: int = Field(
        30, ge=1, description="days for which rotated logs of requests are kept; their usage by key is kept for ever"
    )
    gateway_admin_port: int = Field(
        9901, ge=1, le=65535, description="not used any more: Envoy's admin interface is a socket of the home"
    )
    gateway_tls_certificate: Path | None = Field(
        None, description="PEM file with the certificate and its chain; none: plain HTTP"
    )
    gateway_tls_key: Path | None = Field(None, description="PEM file with the certificate's private key")
    gateway_metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="port of the metrics for Prometheus; none: on Envoy's admin socket only",
    )
    gateway_metrics_host: str = Field("127.0.0.1", description="address that the metrics' port listens on")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="MLflow's server")
    mlflow_backend_uri: str | None = Field(
        None,
        description="MLflow's database: postgresql://user@host/database, the password in PGPASSFILE; none: SQLite",
    )
    mlflow_artifacts_url: str | None = Field(
        None,
        pattern=r"^s3://",
        description="place of MLflow's files, as s3://bucket/prefix; none: a folder of the home",
    )
    mlflow_largest_file: int | None = Field(
        None, ge=1, description="largest file that MLflow's server takes from a client, in MiB; none: 100"
    )
    mlflow_hosts: str | None = Field(
        None,
        pattern=r"^[^\s,]+(,[^\s,]+)*$",
        description="further names by which MLflow is reached, as `name` or `name:port`, with commas between them",
    )
    mlflow_auth: bool = Field(
        default_factory=lambda: (home_folder() / "mlflow" / "auth.db").exists(),
        description="whether MLflow has accounts; true once `weighbridge up --auth` has created them",
    )
    prefect_port: int = Field(4200, ge=1, le=65535, description="Prefect's server")
    prefect_page_url: str = Field(
        "",
        pattern=r"^(https?://[^/?#\s@]+)?$",
        description="address under which browsers reach Prefect's page through a proxy, as https://prefect.example.com",
    )
    webhook_port: int = Field(
        8090, ge=1, le=65535, description="port that MLflow's webhook calls on an approval, on loopback only"
    )
    engine_port_first: int = Field(8200, ge=1, le=65535, description="first port of the engines")
    engine_ports: int = Field(50, ge=2, le=1000, description="number of ports that engines may use")
    weigh_at_once: int = Field(
        1, ge=1, description="number of candidates, or suites of one candidate, scored in parallel; each loads a model"
    )
    task_runner: Literal["threads", "ray"] = Field(
        "threads", description="how they run: threads of the flow, or prefect-ray if installed"
    )
    notify_file: Path | None = Field(
        None, description="file of mode 0600 with addresses for notifications, one a line; none: notify.txt in the home"
    )
    gpus_file: Path | None = Field(
        None, description="file with your own GPUs; they add to, and replace, those of tasks/fit/hardware/gpus.yaml"
    )
    prices_file: Path | None = Field(
        None, description="file with your own prices; they add to, and replace, those of tasks/cost/prices.yaml"
    )
    store_url: str | None = Field(
        None, description="remote store of artifacts beside the local one, as s3://bucket/prefix"
    )
    audit_witness_url: str | None = Field(
        None,
        description="folder or bucket where the audit log's head is noted after every entry, as an absolute path or "
        "s3://bucket/prefix",
    )
    signing_key: str | None = Field(
        None,
        description="your own private key for signing artifacts and verdicts: a PEM file, or the URI of a key in a key "
        "management service (`awskms:…`, `gcpkms:…`, `azurekms:…`)",
    )
    public_key: Path | None = Field(
        None,
        description="file with the public keys for verifying: PEM, or a copy of another installation's keyring.json; "
        "by default the other halves of all keys that this installation signed with",
    )
    hf_endpoint: str = Field(
        default_factory=lambda: os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
        description="address of the Hub; HF_ENDPOINT, huggingface_hub's own variable, works too",
    )
    source_s3_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s@]+$",
        description="address of the server of s3:// sources; none: AWS_ENDPOINT_URL, or else Amazon's",
    )

    pass_environment: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_:, ]*$",
        description="names of further variables of the shell for the stack's processes, separated by commas: `NAME` "
        "for all of them, `worker:NAME` for one service",
    )

    @field_validator("root", "home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # A service runs in a folder of its own, where a relative one would be another.
        return value.resolve()

    @field_validator("task_runner", mode="before")
    @classmethod
    def _no_dask(cls, value: object) -> object:
        if value == "dask":
            # A step that waits for its own steps occupies the worker they need; and it cannot be given an address.
            raise ValueError("is 'dask', on which steps inside steps wait for each other for ever; use threads or ray")
        return value

    @field_validator("pass_environment")
    @classmethod
    def _known_services(cls, value: str) -> str:
        if unknown := unknown_kinds(value):
            raise ValueError(f"names {', '.join(sorted(unknown))}; there are {', '.join(SERVICES)}")
        return value

    @field_validator("mlflow_backend_uri")
    @classmethod
    def _postgresql_without_password(cls, value: str | None) -> str | None:
        if value and not value.startswith("postgresql://"):
            raise ValueError("does not begin with postgresql://")
        # It would be visible in stack.json, in supervisord's files and in the list of processes.
        if value and urlsplit(value).password:
            raise ValueError("has a password in it; put that into the file that PGPASSFILE names")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Prefer the environment to the running stack's record, and that to the defaults."""
        return (init_settings, env_settings, StackRecord(settings_cls), MovedPorts(settings_cls))

    @property
    def stack_file(self) -> Path:
        """Record that `weighbridge up` made of the stack it started."""
        return self.home / RECORD

    @property
    def store_folder(self) -> Path:
        """Folder of the artifact store."""
        return self.home / "store"

    @property
    def logs_folder(self) -> Path:
        """Folder of the logs of all services and engines."""
        return self.home / "logs"

    @property
    def mlflow_url(self) -> str:
        """Address of the MLflow server."""
        return f"http://{self.host}:{self.mlflow_port}"

    @property
    def mlflow_backend(self) -> str:
        """Address of MLflow's database for SQLAlchemy; the driver is named because the default differs by version."""
        if self.mlflow_backend_uri:
            return self.mlflow_backend_uri.replace("postgresql://", "postgresql+psycopg://", 1)
        return f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def prefect_url(self) -> str:
        """Address of the Prefect server."""
        return f"http://{self.host}:{self.prefect_port}"

    @property
    def prefect_profiles(self) -> Path:
        """File from which Prefect takes the address and the secret of its server (weighbridge/prefect_api.py)."""
        return self.home / "prefect" / "profiles.toml"

    @property
    def gateway_url(self) -> str:
        """Address for the clients of the models (append `/v1`)."""
        scheme = "https" if self.gateway_tls_certificate else "http"
        return f"{scheme}://{self.host}:{self.gateway_port}"

    def as_environment(self) -> dict[str, str]:
        """Return the settings as variables, for the processes that the stack starts.

        `mlflow_auth` and `signing_key` are left out, and set only for the services that need them. So is
        `port_offset`: the ports are in it.
        """
        values = self.model_dump(mode="json", exclude={"mlflow_auth", "signing_key", "port_offset"})
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items() if value is not None}

    def library_environment(self) -> dict[str, str]:
        """Return the variables that point Prefect, MLflow and huggingface_hub at this installation."""
        return {
            "PREFECT_HOME": str(self.home / "prefect"),
            # Else a pyproject.toml in the working directory would name another installation's.
            "PREFECT_PROFILES_PATH": str(self.prefect_profiles),
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "PREFECT_LOCAL_STORAGE_PATH": str(self.home / "prefect" / "results"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Seconds. A run without heartbeats is marked as crashed (automations.yaml).
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "HF_ENDPOINT": self.hf_endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "DO_NOT_TRACK": "1",
        }


def default_port(field: str) -> int:
    """The port of a service without any setting."""
    return int(Settings.model_fields[field].default)


def load_settings(port_offset: int | None = None) -> Settings:
    """Load the settings of this process, whose files are from then on for its user only, whatever the umask was.

    Args:
        port_offset: Instead of the one of the environment or the home.

    Raises:
        SettingsInvalid: A variable, or the record of the running stack, has a value that cannot be used.
        HomeNotYours: The home belongs to another user, or another user runs its stack.
        HomeUnusable: The home is no folder, or cannot be read or written.
    """
    keep_files_private()
    require_own_home(home_folder())
    try:
        return Settings() if port_offset is None else Settings(port_offset=port_offset)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        # A value that our own check refuses may contain a password, so it is not shown.
        own = first["type"] == "value_error"
        what = f"{field} {first['ctx']['error']}." if own else f"{field} is {first['input']!r}: {first['msg'].lower()}."
        variable = f"{PREFIX}{field.upper()}"
        if variable not in {name.upper() for name in os.environ}:
            record = str(home_folder() / RECORD)
            next_step = "Remove the file, which `weighbridge up` writes again, then run the command again."
            raise SettingsInvalid(f"The record of the running stack is damaged: {what}", next_step, record) from None
        raise SettingsInvalid(
            what, "Correct or unset the variable, then run the command again.", where=variable
        ) from None


def use_libraries(settings: Settings) -> None:
    """Point Prefect, MLflow and huggingface_hub of *this* process at the installation. Call before importing them."""
    os.environ.update(settings.library_environment())
