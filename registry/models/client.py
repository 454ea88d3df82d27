"""The connection to MLflow: a quiet client, and named errors instead of MLflow's own."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar, cast

from registry.accounts import sign_in
from registry.models.auth_errors import RoleNeeded, explain_denial
from registry.models.quick_client import QuickClient, Refused
from registry.signing import KeyPair
from weighbridge.errors import RegistryFailed, StackDown
from weighbridge.settings import Settings, load_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# MLflow's own retries are off: they repeat a POST whose answer was lost, which creates a second run or version.
# `reaches_mlflow` repeats whole operations instead, and those search before they create.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
PAUSES_SECONDS = (0.5, 1.5)
"""Pauses before the second and the third attempt of an operation that could not connect to MLflow."""

P = ParamSpec("P")
R = TypeVar("R")


class _Addressed(Protocol):
    @property
    def tracking_uri(self) -> str: ...


A = TypeVar("A", bound=_Addressed)
Operation = Callable[Concatenate[A, P], R]


class Connection:
    """A connection to one MLflow, opened at first use.

    Args:
        where: Settings of an installation, or an address: of a server, or of a database (`sqlite:///…`).
    """

    def __init__(self, where: Settings | str) -> None:
        self._settings = None if isinstance(where, str) else where
        self._uri = where if isinstance(where, str) else where.mlflow_url

    @property
    def tracking_uri(self) -> str:
        """Address of MLflow."""
        return self._uri

    @cached_property
    def keys(self) -> KeyPair:
        """Keys that verdicts are signed and verified with."""
        return KeyPair.of(self._settings or load_settings())

    @cached_property
    def client(self) -> MlflowClient:
        """A client of MLflow, signed in if the installation has accounts. Only rarer requests import MLflow's own."""
        if self._settings is not None:
            sign_in(self._settings)
        _set_environment()
        if QuickClient.knows(self._uri):
            return cast("MlflowClient", QuickClient(self._uri, lambda: connect(self._uri)))
        return connect(self._uri)


def _set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def connect(tracking_uri: str) -> MlflowClient:
    """Make MLflow's own client of this address, without a request. A process's first call imports MLflow (1-4 s)."""
    _set_environment()
    import logging

    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def reaches_mlflow(*, role: RoleNeeded) -> Callable[[Operation[A, P, R]], Operation[A, P, R]]:
    """Decorate a method that sends requests to MLflow, so that failures have names and lost connections are retried.

    The method must be harmless to repeat.

    Args:
        role: Role of the line that the method needs, for the message when MLflow refuses.

    Raises:
        StackDown: From the method, if the address does not answer, or not in time.
        RegistryDenied: From the method, if MLflow does not know the account or refuses it.
        RegistryFailed: From the method, if MLflow answers with another error.
    """

    def decorate(operation: Operation[A, P, R]) -> Operation[A, P, R]:
        @functools.wraps(operation)
        def wrapped(self: A, /, *args: P.args, **kwargs: P.kwargs) -> R:
            for pause_seconds in (*PAUSES_SECONDS, None):
                try:
                    return operation(self, *args, **kwargs)
                except Exception as error:
                    if not _is_of_mlflow(error):
                        raise
                    if not (unreachable := _unreachable(error)):
                        arguments = (*args, *kwargs.values())
                        denial = explain_denial(operation.__name__, role, arguments, error, self.tracking_uri)
                        raise denial or _failed(self.tracking_uri, error) from error
                    if unreachable == "silent" or pause_seconds is None:
                        raise _down(self.tracking_uri, unreachable) from error
                time.sleep(pause_seconds)
            raise AssertionError("the last attempt returns or raises")

        wrapped.role_needed = role  # type: ignore[attr-defined]
        return wrapped

    return decorate


def web_address(client: MlflowClient, page: str) -> str:
    """Address of a page of MLflow; empty if MLflow is a database without a server."""
    uri = str(client.tracking_uri)
    return f"{uri.rstrip('/')}/#/{page}" if uri.startswith("http") else ""


def file_address(client: MlflowClient, file: str) -> str:
    """Address of a file, by its path and query; empty if MLflow is a database without a server."""
    uri = str(client.tracking_uri)
    return f"{uri.rstrip('/')}/{file}" if uri.startswith("http") else ""


def run_url(client: MlflowClient, run: Run) -> str:
    """Address of a run's page; empty without a server."""
    return web_address(client, f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}")


def _is_of_mlflow(error: Exception) -> bool:
    """True if an error is MLflow's, or of the request to it, by either client."""
    import httpx

    kinds: list[type[Exception]] = [Refused, httpx.HTTPError]
    # What was not imported has raised nothing.
    if "mlflow.exceptions" in sys.modules:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        kinds += [MlflowException, RequestException]
    return isinstance(error, tuple(kinds))


def _unreachable(error: Exception) -> str:
    """Say why MLflow was not reached: `refused` (no listener, broken connection), `silent` (timeout), else empty."""
    import httpx

    if isinstance(error, Refused):
        return ""
    if isinstance(error, httpx.HTTPError):
        return "silent" if isinstance(error, httpx.TimeoutException) else "refused"
    from mlflow.exceptions import RestException
    from requests.exceptions import ConnectionError as BrokenConnection
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

    # An answer is an answer, whatever failed before it.
    if getattr(error, "response", None) is not None or isinstance(error, RestException):
        return ""
    causes = list(_causes(error))
    # urllib3 counts a refused connection among the connection timeouts; requests calls both a ConnectionError.
    timeouts = (cause for cause in causes if isinstance(cause, (ReadTimeoutError, ConnectTimeoutError)))
    if any(not isinstance(timeout, NewConnectionError) for timeout in timeouts):
        return "silent"
    return "refused" if any(isinstance(cause, BrokenConnection) for cause in causes) else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _down(address: str, how: str) -> StackDown:
    seconds = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    what = f"did not answer within {seconds} s" if how == "silent" else "does not answer"
    return StackDown(
        f"The MLflow server {what}.",
        "Start the stack with `weighbridge up`, then run the same command again: it continues where it stopped.",
        where=address,
    )


def _failed(address: str, error: Exception) -> RegistryFailed:
    return RegistryFailed(
        f"MLflow refused: {str(error).strip().splitlines()[0][:500]}",
        "Look at MLflow's log (`weighbridge status` names it). The same command may be run again.",
        where=address,
    )
