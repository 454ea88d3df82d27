"""Rules for what MLflow's permissions do not separate: EDIT on `<line>` covers versions, aliases and renaming.

Weighbridge's roles are MLflow roles (`reviewer:llama`), so the server knows who holds which. These rules add to
MLflow's own, for the experiment and the two registered models of a line:

- only a reviewer of `<line>` creates a version of it, since that copy is the approval;
- only an operator of `<line>` moves or removes an alias of it;
- only an admin creates or renames a registered model, since its creator owns it and could approve in it;
- only an admin creates or renames an experiment, since the pipeline finds a line's by its name.

MLflow demands MANAGE for removing an alias, which also covers giving rights to others. Here EDIT is enough.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, g, request
from mlflow.protos import model_registry_pb2 as protocol
from mlflow.protos import service_pb2
from mlflow.server import auth
from mlflow.server.handlers import get_endpoints

from registry.access.roles import role_name
from registry.models.records import candidates_model
from registry.server.guard import refusal
from registry.server.routes import find

ADMINS_ONLY = "only an admin may ask for it"
OWN_ROLES = "/api/3.0/mlflow/users/roles/list"
"""An account may list its own roles, as MLflow's page does."""


def tighten() -> None:
    """Replace MLflow's checks by these rules. They do not apply to an admin.

    Raises:
        RuntimeError: This version of MLflow lacks a check that 3.17.2 has.
    """
    rules: dict[type, Callable[[], bool]] = {
        protocol.CreateModelVersion: _may_make_version,
        protocol.SetRegisteredModelAlias: _may_move_alias,
        protocol.DeleteRegisteredModelAlias: _may_move_alias,
        protocol.CreateRegisteredModel: _only_admins,
        protocol.RenameRegisteredModel: _only_admins,
        service_pb2.CreateExperiment: _only_admins,
        service_pb2.UpdateExperiment: _only_admins,
    }
    new_rules = set(rules.values())
    found = [
        ((path, method), rule)
        for path, rule, methods in get_endpoints(rules.get)
        if rule in new_rules
        for method in methods
    ]
    if {rule for _, rule in found} != new_rules or any(key not in auth.BEFORE_REQUEST_VALIDATORS for key, _ in found):
        raise RuntimeError("This version of MLflow checks its requests elsewhere: Weighbridge's rules would not hold.")
    auth.BEFORE_REQUEST_VALIDATORS.update(found)


def only_admins(app: Flask) -> None:
    """Refuse to all others what is an admin's: lists of accounts and roles, and the webhooks.

    It must be called after basic-auth has added its checks, which sign the account in.

    Args:
        app: MLflow's Flask application.
    """

    @app.before_request
    def check() -> Response | None:
        route = find(request.method, request.path)
        if route is None or route.access != "admin" or auth.sender_is_admin():
            return None
        account = str(g.mlflow_authenticated_user)
        if route.path == OWN_ROLES and request.args.get("username") == account:
            return None
        return Response(refusal(ADMINS_ONLY), status=403, mimetype="application/json")


def _may_make_version() -> bool:
    return bool(auth.validate_can_create_model_version()) and _holds("reviewer")


def _may_move_alias() -> bool:
    return bool(auth._validate_can_update_registered_model_or_prompt()) and _holds("operator")


def _only_admins() -> bool:
    return False


def _holds(role: str) -> bool:
    """Return whether the account holds a role of the line whose approved versions the request concerns."""
    model = auth._get_request_param("name")
    if auth._fetch_or_none(auth._get_model_registry_store().get_registered_model, candidates_model(model)) is None:
        return True
    user = auth.store.get_user(auth.authenticate_request().username)
    return role_name(role, model) in {held.name for held in auth.store.list_user_roles(user.id)}
