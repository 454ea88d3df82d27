"""The gateway's files and the Envoy that reads them: its bootstrap, its health, and bringing it up to date."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from tasks.serve.engine_keys import EngineKeys
from tasks.serve.gateway.admin import Admin
from tasks.serve.gateway.bootstrap import admin_socket, bootstrap_document, envoy_command
from tasks.serve.gateway.client_usage import forget
from tasks.serve.gateway.documents import Documents
from tasks.serve.gateway.files import as_json
from tasks.serve.gateway.keys import KeysFile
from tasks.serve.gateway.log_files import compress, expired, rotate
from tasks.serve.gateway.logs import access_log, mirror_log
from tasks.serve.gateway.routes import RoutesFile
from tasks.serve.gateway.tls import secret_document
from weighbridge.errors import GatewayFailed
from weighbridge.files import write_whole
from weighbridge.private_files import private_folder
from weighbridge.settings import Settings, load_settings


class EnvoyProcess:
    """The Envoy of one installation.

    Args:
        settings: the installation's by default.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self.folder = self.settings.home / "gateway"
        self._file, self._keys = RoutesFile(self.folder), KeysFile(self.folder)
        self._admin = Admin(admin_socket(self.folder), self.folder / "envoy.json")
        self._documents = Documents(self.folder / "discovery", self._admin, EngineKeys(self.settings).of)

    def bootstrap(self) -> Path:
        """Write all files that Envoy starts from, rendered from the routes; harmless while it runs.

        Returns:
            The file for `envoy -c`.

        Raises:
            SettingsInvalid: the certificate or its key cannot be used.
            HomeUnsafe: the gateway's folder belongs to another user.
        """
        secret = secret_document(self.settings)
        self.settings.logs_folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "envoy.json"
        private_folder(self.folder)
        with self._file.writing():
            write_whole(config, self.bootstrap_text())
            if secret:
                self._documents.write("tls.json", secret)
            self._render(wait=False)
        return config

    def bootstrap_text(self) -> str:
        """The configuration that Envoy reads once, when it starts."""
        return as_json(bootstrap_document(self.settings, self._documents.folder))

    def envoy_command(self) -> list[str]:
        """Command line that runs Envoy in the foreground, after `bootstrap()`."""
        return envoy_command(self.folder / "envoy.json")

    def health(self) -> bool:
        """True if Envoy runs with our configuration and answers clients."""
        import httpx  # takes half a second, which callers without Envoy need not spend

        if not self._admin.up():
            return False
        try:
            # The certificate names the host that clients use; this request goes to the listener's own address.
            return httpx.get(
                f"{self.settings.gateway_url}/healthz", timeout=5, trust_env=False, verify=False
            ).is_success
        except httpx.HTTPError:
            return False

    @property
    def old_admin(self) -> str:
        """Address of the admin interface of a gateway that an older Weighbridge configured; else empty."""
        return self._admin.old_address

    @property
    def is_outdated(self) -> bool:
        """True if Envoy was started with another fixed configuration than it would be now."""
        path = self.folder / "envoy.json"
        return path.is_file() and path.read_text() != self.bootstrap_text()

    def keep_logs(self) -> None:
        """Rotate, compress and delete the logs of requests where it is due; harmless at any time and in any process."""
        settings = self.settings
        for log in (access_log(settings), mirror_log(settings)):
            rotate(log, settings.gateway_log_mib * 2**20, timedelta(days=1), self._admin.reopen_logs)
            compress(log)
        forget(access_log(settings), expired(access_log(settings), timedelta(days=settings.gateway_log_days)))
        for path in expired(mirror_log(settings), timedelta(days=settings.gateway_log_days)):
            path.unlink(missing_ok=True)

    def client_requests(self) -> int:
        """Number of clients' requests in progress.

        Raises:
            GatewayFailed: Envoy does not answer.
        """
        return self._admin.client_requests()

    def _require_up(self, wait: bool) -> None:
        if wait and not self._admin.up():
            raise GatewayFailed(
                "The gateway is not up.",
                "Start the stack with `weighbridge up`, then run the command again.",
                where=self._admin.address,
            )

    def _render(self, wait: bool) -> None:
        """Bring Envoy up to date with the routes and keys, or only its files if it is down."""
        routes, keys = self._file.load(), self._keys.load()
        if wait or self._admin.up():
            self._documents.apply(routes, keys)
        else:
            self._documents.write_all(routes, keys)
