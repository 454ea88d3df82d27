"""Why a request of MLflow is refused, by the beginning of its path.

The list is for people: `routes.py` alone decides. `tests/registry/mlflow_refused.txt` names every route of the
installed MLflow that is refused.
"""

from __future__ import annotations

from registry.server.routes import spelled

RUNS_CODE = "it would run programs as the installation's user"
OTHER_SECRETS = "it keeps secrets and calls models, and Weighbridge has a gateway of its own"
TRACES = "it is about traces of applications, which Weighbridge does not record"
SIGNED_ADDRESS = "it would give an address that leads past MLflow's permissions"
BY_ROLES = "accounts and rights come from `weighbridge roles apply`"
NOT_NEEDED = "no flow of Weighbridge and no page about its records needs it"

_API2, _API3 = "/api/2.0/mlflow/", "/api/3.0/mlflow/"
REASONS = {
    _API3 + "assistant": RUNS_CODE,
    "/api/3.0/jobs": RUNS_CODE,
    _API3 + "jobs": RUNS_CODE,
    _API3 + "prompt-optimization": RUNS_CODE,
    _API3 + "genai": RUNS_CODE,
    _API3 + "scorer": RUNS_CODE,
    _API3 + "issues": TRACES,
    _API3 + "mcp-servers": "it is a directory of MCP servers, which Weighbridge does not use",
    _API3 + "gateway": OTHER_SECRETS,
    "/gateway/": OTHER_SECRETS,
    _API2 + "gateway-proxy": OTHER_SECRETS,
    _API2 + "runs/create-promptlab-run": OTHER_SECRETS,
    _API2 + "traces": TRACES,
    _API3 + "traces": TRACES,
    "/v1/traces": TRACES,
    _API2 + "unified-traces": TRACES,
    _API2 + "get-trace-artifact": TRACES,
    _API3 + "get-trace-artifact": TRACES,
    _API2 + "get-online-trace-details": TRACES,
    _API3 + "label-schemas": TRACES,
    _API3 + "review-queues": TRACES,
    _API3 + "datasets": TRACES,
    _API3 + "demo": TRACES,
    _API3 + "workspaces": "MLflow's workspaces are off",
    "/api/2.0/mlflow-artifacts/presigned": SIGNED_ADDRESS,
    "/api/2.0/mlflow-artifacts/mpu": SIGNED_ADDRESS,
    _API2 + "artifacts/presigned": SIGNED_ADDRESS,
    "/signup": BY_ROLES,
    _API2 + "users/create-ui": BY_ROLES,
    _API3 + "users/permissions": BY_ROLES,
    "/api/2.0/preview/": "it is a second spelling of another request",
    "/api/2.0mlflow/": "it is a second spelling of another request",
    "/build/": "it is a second spelling of another request",
    _API3 + "ui-telemetry": "MLflow's telemetry is off",
    _API2 + "webhooks": "Weighbridge's webhook is tested by its receiver",
    _API2 + "model-versions/transition-stage": "MLflow's stages are replaced by aliases",
    _API2 + "upload-artifact": "files are sent by MLflow's client",
    _API2 + "runs/log-model": "models are logged as MLflow 3 does",
    "/api/2.0/mlflow-artifacts/artifacts": "a record's files are kept",
    "/graphql": "GraphQL is asked by POST",
}
"""Beginning of a path -> reason."""

ASKED_BY_THE_PAGE = frozenset(
    ("GET", _API3 + rest) for rest in ("assistant/config", "assistant/providers", "ui-telemetry")
)
"""Refused requests that MLflow's page sends by itself while people read it. They are not written into the audit log,
where they would hide the others."""


def is_asked_by_the_page(method: str, path: str) -> bool:
    """Return whether MLflow's page sends a refused request by itself."""
    return (method, spelled(path)) in ASKED_BY_THE_PAGE


def reason_of(path: str) -> str:
    """Return why a request that is not on the list is refused."""
    plain = spelled(path)
    return next((reason for start, reason in REASONS.items() if plain.startswith(start)), NOT_NEEDED)
