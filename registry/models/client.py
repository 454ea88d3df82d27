"""MLflow's client, quiet, and quick to say that its server is down."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from registry.models.auth_errors import denied
from weighbridge.errors import RegistryFailed, StackDown

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's own retries are off: they repeat a POST whose answer was lost, which makes a second run or
# version. `reaches_mlflow` repeats whole operations instead, and those look before they make.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
PAUSES_SECONDS = (0.5, 1.5)
"""Waits before the second and the third try of an operation that did not reach MLflow."""

P = ParamSpec("P")
R = TypeVar("R")


class _Addressed(Protocol):
    @property
    def tracking_uri(self) -> str: ...


A = TypeVar("A", bound=_Addressed)


def connect(tracking_uri: str) -> MlflowClient:
    """A client of this address; nothing is asked yet.

    Takes MLflow's import time (3-4 s) at the first call of a process.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import logging

    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def reaches_mlflow(operation: Callable[Concatenate[A, P], R]) -> Callable[Concatenate[A, P], R]:
    """Make a method say plainly that MLflow is down; the method must be harmless to repeat.

    Raises:
        StackDown: nobody answers at the address, or not in time.
        RegistryDenied: MLflow does not know who asks, or does not let him.
        RegistryFailed: MLflow answers with an error that is none of ours.
    """

    @functools.wraps(operation)
    def wrapped(self: A, /, *args: P.args, **kwargs: P.kwargs) -> R:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        for pause_seconds in (*PAUSES_SECONDS, None):
            try:
                return operation(self, *args, **kwargs)
            except (MlflowException, RequestException) as error:
                if not (unreachable := _unreachable(error)):
                    denied_because = denied(operation.__name__, (*args, *kwargs.values()), error, self.tracking_uri)
                    raise denied_because or _failed(self.tracking_uri, error) from error
                if unreachable == "silent" or pause_seconds is None:
                    raise _down(self.tracking_uri, unreachable) from error
            time.sleep(pause_seconds)
        raise AssertionError("the last try returns or raises")

    return wrapped


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unreachable(error: Exception) -> str:
    """`refused` where nobody listens or the line broke, `silent` where no answer came in time, else nothing."""
    from mlflow.exceptions import RestException
    from requests.exceptions import ConnectionError as Refused
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

    # An answer is an answer, whatever MLflow tried on the way to it.
    if getattr(error, "response", None) is not None or isinstance(error, RestException):
        return ""
    chain = list(_chain(error))
    # urllib3 counts a refused connection among the connection timeouts; requests calls both a ConnectionError.
    timeouts = (one for one in chain if isinstance(one, (ReadTimeoutError, ConnectTimeoutError)))
    if any(not isinstance(one, NewConnectionError) for one in timeouts):
        return "silent"
    return "refused" if any(isinstance(one, Refused) for one in chain) else ""


def _down(address: str, how: str) -> StackDown:
    seconds = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    what = f"did not answer within {seconds} s" if how == "silent" else "does not answer"
    return StackDown(
        f"The MLflow server {what}.",
        "Start the stack with `weighbridge up`, then run the same command again: it goes on where it stopped.",
        where=address,
    )


def _failed(address: str, error: Exception) -> RegistryFailed:
    return RegistryFailed(
        f"MLflow refused: {str(error).strip().splitlines()[0][:500]}",
        "Look into mlflow's log (`weighbridge status` names it); the same command may be run again.",
        where=address,
    )
