"""Requests that MLflow's server answers: those of Weighbridge's flows, and those of MLflow's page on what they record.

Everything else is refused (`guard.py`), whatever a later version of MLflow adds. `refused.py` names what this version
has beside it, and a test fails on a route that neither file names.

A path of MLflow's API is written once, with `/api`; `/ajax-api` is the same for its page. `{id}` is one segment,
`{path}` is one or more.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, NamedTuple

Access = Literal["anybody", "account", "admin"]
"""Who may ask. anybody: also without a name. account: MLflow checks what the account may do. admin: admins only; where
MLflow has no accounts, the installation's own programs (`accounts.own_key`)."""
Body = Literal["none", "json", "graphql", "file"]

_QUESTIONS = ("/search", "/search-datasets", "/traces/metrics", "/get-latest-versions")
"""Endings of paths by which MLflow's page asks with POST."""

API, PAGE_API = "/api/", "/ajax-api/"


class Route(NamedTuple):
    """A request that is answered."""

    method: str
    path: str
    access: Access
    body: Body
    repeated: frozenset[str] = frozenset()
    """Fields of the query that may occur more than once."""

    @property
    def changes(self) -> bool:
        """Whether the request changes something, and does not only ask."""
        return self.body != "none" and self.body != "graphql" and not self.path.endswith(_QUESTIONS)


class _Group(NamedTuple):
    method: str
    prefix: str
    paths: str
    access: Access = "account"
    repeated: str = ""


_GROUPS = (
    _Group("GET", "/", "", "anybody"),
    _Group("GET", "/", "health version static-files/{path}", "anybody"),
    _Group("GET", "/", "get-artifact model-versions/get-artifact"),
    _Group("POST", "/", "graphql"),
    _Group("GET", "/api/3.0/mlflow/", "server-info", "anybody"),
    _Group(
        "GET",
        "/api/2.0/mlflow/",
        """
        artifacts/list
        experiments/get experiments/get-by-name
        logged-models/{id} logged-models/{id}/artifacts/directories logged-models/{id}/artifacts/files
        metrics/get-history
        model-versions/get model-versions/get-download-uri
        registered-models/alias registered-models/get
        runs/get
        users/current
        """,
    ),
    _Group(
        "GET",
        "/api/2.0/mlflow/",
        "experiments/search model-versions/search registered-models/search registered-models/get-latest-versions",
        repeated="order_by stages",
    ),
    _Group("GET", "/api/2.0/mlflow/", "metrics/get-history-bulk", repeated="run_id"),
    _Group("GET", "/api/2.0/mlflow/", "metrics/get-history-bulk-interval", repeated="run_ids"),
    _Group("GET", "/api/3.0/mlflow/", "users/current/permissions"),
    _Group(
        "POST",
        "/api/2.0/mlflow/",
        """
        experiments/create experiments/delete experiments/restore experiments/search experiments/search-datasets
        experiments/set-experiment-tag experiments/delete-experiment-tag experiments/update
        logged-models logged-models/search logged-models/{id}/params
        model-versions/create model-versions/set-tag
        registered-models/alias registered-models/create registered-models/get-latest-versions registered-models/rename
        registered-models/set-tag
        runs/create runs/delete runs/delete-tag runs/log-batch runs/log-inputs runs/log-metric runs/log-parameter
        runs/outputs runs/restore runs/search runs/set-tag runs/update
        """,
    ),
    _Group(
        "PATCH",
        "/api/2.0/mlflow/",
        """
        logged-models/{id} logged-models/{id}/tags
        model-versions/update
        registered-models/update
        users/update-password
        """,
    ),
    _Group(
        "DELETE",
        "/api/2.0/mlflow/",
        """
        logged-models/{id} logged-models/{id}/tags/{id}
        model-versions/delete model-versions/delete-tag
        registered-models/alias registered-models/delete registered-models/delete-tag
        """,
    ),
    # The page of an experiment asks for these too, finds nothing, and would show errors without an answer.
    _Group("POST", "/api/3.0/mlflow/", "datasets/search traces/metrics traces/search"),
    _Group("GET", "/api/2.0/mlflow/", "gateway-proxy"),
    _Group("GET", "/api/2.0/mlflow-artifacts/", "artifacts artifacts/{path}"),
    _Group("PUT", "/api/2.0/mlflow-artifacts/", "artifacts/{path}"),
    # `roles apply` sends these, and the webhook's receiver.
    _Group("GET", "/api/2.0/mlflow/", "users/get users/list webhooks webhooks/{id}", "admin"),
    _Group("POST", "/api/2.0/mlflow/", "users/create webhooks", "admin"),
    _Group("PATCH", "/api/2.0/mlflow/", "users/update-admin webhooks/{id}", "admin"),
    _Group("DELETE", "/api/2.0/mlflow/", "users/delete webhooks/{id}", "admin"),
    _Group(
        "GET",
        "/api/3.0/mlflow/",
        """
        roles/get roles/list roles/permissions/list roles/users/list
        users/permissions/get users/permissions/list users/roles/list
        """,
        "admin",
    ),
    _Group("POST", "/api/3.0/mlflow/", "roles/assign roles/create roles/permissions/add", "admin"),
    _Group("PATCH", "/api/3.0/mlflow/", "roles/permissions/update roles/update", "admin"),
    _Group("DELETE", "/api/3.0/mlflow/", "roles/delete roles/permissions/remove roles/unassign", "admin"),
)


def _body(method: str, path: str) -> Body:
    if method == "GET":
        return "none"
    if path == "/graphql":
        return "graphql"
    return "file" if path.startswith("/api/2.0/mlflow-artifacts/") else "json"


ROUTES = tuple(
    Route(group.method, path, group.access, _body(group.method, path), frozenset(group.repeated.split()))
    for group in _GROUPS
    for path in (group.prefix + rest for rest in group.paths.split() or [""])
)
"""Every request that is answered."""


def spelled(path: str) -> str:
    """Return the one spelling of a path of MLflow's API in this file."""
    return API + path.removeprefix(PAGE_API) if path.startswith(PAGE_API) else path


def find(method: str, path: str) -> Route | None:
    """Return the route of a request; None if the request is to be refused.

    Args:
        method: As sent; HEAD and OPTIONS are refused.
        path: As MLflow's routers will see it, percent-decoded.
    """
    plain = spelled(path)
    return _fixed().get((method, plain)) or next(
        (route for pattern, route in _patterns() if route.method == method and pattern.fullmatch(plain)), None
    )


@cache
def _fixed() -> dict[tuple[str, str], Route]:
    return {(route.method, route.path): route for route in ROUTES if "{" not in route.path}


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Route], ...]:
    kinds = {"{id}": "[^/]+", "{path}": ".+"}
    return tuple(
        (re.compile("".join(kinds.get(part, re.escape(part)) for part in re.split(r"(\{\w+\})", route.path))), route)
        for route in ROUTES
        if "{" in route.path
    )
