"""What MLflow's rights cannot tell apart: EDIT on `<line>` makes versions, moves aliases and renames the model.

Weighbridge's roles are MLflow roles (`reviewer:llama`), so the server knows who holds which. On the two registered
models of a line, beside what MLflow demands:

- a version of `<line>` is made by its reviewers only: that copy is the approval;
- an alias of `<line>` is moved, or taken away, by its operators only;
- a registered model is made or renamed by an admin only: who makes one owns it, and could approve in it.

Taking an alias away needs MANAGE by MLflow's own rule, which also gives rights to others; here EDIT is enough.
"""

from __future__ import annotations

from collections.abc import Callable

from mlflow.protos import model_registry_pb2 as protocol
from mlflow.server import auth
from mlflow.server.handlers import get_endpoints

from registry.access.roles import role_name
from registry.models.records import candidates_model


def tighten() -> None:
    """Put these rules in the place of MLflow's own; an admin is asked for none of them.

    Raises:
        RuntimeError: this MLflow has no such check where its 3.17.2 has one.
    """
    rules: dict[type, Callable[[], bool]] = {
        protocol.CreateModelVersion: _may_make_version,
        protocol.SetRegisteredModelAlias: _may_move_alias,
        protocol.DeleteRegisteredModelAlias: _may_move_alias,
        protocol.CreateRegisteredModel: _only_admins,
        protocol.RenameRegisteredModel: _only_admins,
    }
    ours = set(rules.values())
    found = [
        ((path, method), rule) for path, rule, methods in get_endpoints(rules.get) if rule in ours for method in methods
    ]
    if {rule for _, rule in found} != ours or any(key not in auth.BEFORE_REQUEST_VALIDATORS for key, _ in found):
        raise RuntimeError("This version of MLflow checks its requests elsewhere: Weighbridge's rules would not hold.")
    auth.BEFORE_REQUEST_VALIDATORS.update(found)


def _may_make_version() -> bool:
    return bool(auth.validate_can_create_model_version()) and _holds("reviewer")


def _may_move_alias() -> bool:
    return bool(auth._validate_can_update_registered_model_or_prompt()) and _holds("operator")


def _only_admins() -> bool:
    return False


def _holds(role: str) -> bool:
    """Whether who is signed in holds a role of the line whose approved versions the request is about."""
    model = auth._get_request_param("name")
    if auth._fetch_or_none(auth._get_model_registry_store().get_registered_model, candidates_model(model)) is None:
        return True
    user = auth.store.get_user(auth.authenticate_request().username)
    return role_name(role, model) in {one.name for one in auth.store.list_user_roles(user.id)}
