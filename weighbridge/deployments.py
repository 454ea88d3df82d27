"""Start a deployment: the one way."""

from __future__ import annotations

from typing import Any

import httpx

from weighbridge import prefect_api
from weighbridge.errors import ReleaseNotStarted, StackDown, StackFailed
from weighbridge.settings import Settings

TIMEOUT_SECONDS = 10
POOL = "weighbridge"
"""The work pool of the local worker."""


def start(settings: Settings, deployment: str, parameters: dict[str, Any], key: str = "") -> str:
    """Create a flow run of a deployment and return its id, without waiting for the run.

    Args:
        settings: Settings of the installation; they name the Prefect server.
        deployment: Flow and deployment, as `promote/llama`.
        parameters: Parameters that replace the deployment's own; JSON values.
        key: Idempotency key. Prefect keeps one run for a flow and a key (a unique index of its database), so the same
            key again returns the same run. Empty: every call creates a run.

    Returns:
        The id. Neither a paused deployment nor an inactive schedule keeps a run from being started.

    Raises:
        StackDown: Prefect does not answer. Nothing was started.
        ReleaseNotStarted: Prefect has no such deployment, or refuses the parameters. Nothing was started.
        StackFailed: Prefect's answer was lost, or reports an error of Prefect's own. A run may exist.
    """
    with prefect_api.client(settings, TIMEOUT_SECONDS) as client:
        known = _find(client, f"/deployments/name/{deployment}", settings, deployment)
        body = {"parameters": parameters, **({"idempotency_key": key} if key else {})}
        try:
            answer = client.post(f"/deployments/{known['id']}/create_flow_run", json=body)
        except httpx.ConnectError:
            raise _down(settings, deployment) from None
        except httpx.HTTPError as error:
            raise _lost(settings, deployment, type(error).__name__, key) from None
    if answer.is_server_error:
        raise _lost(settings, deployment, f"HTTP {answer.status_code}", key)
    if answer.is_error:
        raise _refused(settings, f"Prefect refuses {deployment}: HTTP {answer.status_code}.")
    return str(answer.json()["id"])


def _find(client: httpx.Client, address: str, settings: Settings, deployment: str) -> dict[str, Any]:
    try:
        answer = client.get(address)
    except httpx.HTTPError:
        raise _down(settings, deployment) from None
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise _refused(settings, f"Prefect has no deployment {deployment}.")
    if answer.is_server_error:
        raise _down(settings, deployment)
    if answer.is_error:
        raise _refused(settings, f"Prefect refuses {deployment}: HTTP {answer.status_code}.")
    found: dict[str, Any] = answer.json()
    return found


def _down(settings: Settings, deployment: str) -> StackDown:
    return StackDown(
        f"Prefect does not answer, so {deployment} was not started.",
        "Run `weighbridge up`, then the same command again.",
        where=settings.prefect_url,
    )


def _refused(settings: Settings, what: str) -> ReleaseNotStarted:
    return ReleaseNotStarted(
        what,
        "Run `weighbridge up`, which makes the deployments of every line; `weighbridge lines` lists them.",
        where=settings.prefect_url,
    )


def _lost(settings: Settings, deployment: str, how: str, key: str) -> StackFailed:
    retry = "Run the same command again: nothing is started twice."
    check = "Look at Prefect's page before you run the same command again: a run may have been started."
    return StackFailed(
        f"Prefect's answer about {deployment} was lost ({how}).", retry if key else check, where=settings.prefect_url
    )
