"""Ask Prefect to start a deployment, over plain HTTP: to import Prefect takes seconds and 200 MiB."""

from __future__ import annotations

import httpx

from weighbridge.errors import ReleaseNotStarted, StackDown
from weighbridge.settings import Settings

TIMEOUT_SECONDS = 10


def start(settings: Settings, deployment: str, parameters: dict[str, object], key: str, *, sooner: bool = False) -> str:
    """Create a flow run of a deployment; the same key again gives the same run.

    Args:
        deployment: as `promote/llama`.
        parameters: over the deployment's own.
        key: Prefect keeps one run for a flow and idempotency key.
        sooner: only start what a schedule of the deployment would start anyway.

    Returns:
        The flow run's id; empty where `sooner` is asked of a deployment that is paused or without an active schedule.

    Raises:
        StackDown: Prefect does not answer, or with an error of its own; whether there is a run, asking again tells.
        ReleaseNotStarted: it has no such deployment, or refuses the parameters.
    """
    api = f"{settings.prefect_url}/api/deployments"
    try:
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            found = client.get(f"{api}/name/{deployment}")
            found.raise_for_status()
            known = found.json()
            if sooner and (known["paused"] or not any(one["active"] for one in known["schedules"])):
                return ""
            wanted = {"parameters": parameters, "idempotency_key": key}
            made = client.post(f"{api}/{known['id']}/create_flow_run", json=wanted)
            made.raise_for_status()
            return str(made.json()["id"])
    except httpx.HTTPStatusError as error:
        if error.response.status_code < 500:
            raise ReleaseNotStarted(
                f"Prefect has no deployment {deployment}, or refuses it: HTTP {error.response.status_code}.",
                "Look at prefect.yaml and run `weighbridge up`.",
                where=settings.prefect_url,
            ) from None
        raise _down(settings, deployment) from None
    except httpx.HTTPError:
        raise _down(settings, deployment) from None


def _down(settings: Settings, deployment: str) -> StackDown:
    return StackDown(
        f"Prefect does not answer, so {deployment} was not started.", "Run `weighbridge up`.", settings.prefect_url
    )
