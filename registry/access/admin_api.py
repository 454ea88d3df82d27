"""MLflow's accounts and roles over HTTP, as far as `roles apply` needs them.

MLflow has a client of its own for these, which imports the whole server with it (6 s of a core); the requests are few.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

WORKSPACE = "default"
"""The only one where MLflow's workspaces are off."""
USERS, ROLES = "/api/2.0/mlflow/users", "/api/3.0/mlflow/roles"


class Right(BaseModel):
    """One permission of a role."""

    model_config = ConfigDict(frozen=True)

    id: int
    resource_type: str
    resource_pattern: str
    permission: str


class RoleRecord(BaseModel):
    """A role as MLflow has it."""

    model_config = ConfigDict(frozen=True)

    id: int
    name: str
    permissions: tuple[Right, ...] = ()

    @property
    def rights(self) -> dict[tuple[str, str], str]:
        """Kind and id of what it is about -> permission."""
        return {(one.resource_type, one.resource_pattern): one.permission for one in self.permissions}


class Accounts:
    """MLflow's accounts, asked as whoever this process is signed in as.

    Args:
        tracking_uri: MLflow's address.

    Raises:
        MlflowException, RequestException: from every method.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri

    def users(self) -> dict[str, dict[str, int]]:
        """Account -> name and id of every role it holds."""
        found = self._ask("GET", f"{USERS}/list")["users"]
        return {one["username"]: {role["name"]: role["id"] for role in one["roles"]} for one in found}

    def roles(self) -> dict[str, RoleRecord]:
        """Name -> role."""
        found = self._ask("GET", f"{ROLES}/list", params={"workspace": WORKSPACE})["roles"]
        return {one["name"]: RoleRecord.model_validate(one) for one in found}

    def create_user(self, name: str, password: str) -> None:
        """Make an account that may do nothing yet."""
        self._ask("POST", f"{USERS}/create", {"username": name, "password": password})

    def set_password(self, name: str, password: str) -> None:
        """Change an account's password."""
        self._ask("PATCH", f"{USERS}/update-password", {"username": name, "password": password})

    def create_role(self, name: str) -> RoleRecord:
        """Make a role without rights."""
        made = self._ask("POST", f"{ROLES}/create", {"workspace": WORKSPACE, "name": name})
        return RoleRecord.model_validate(made["role"])

    def add_right(self, role_id: int, kind: str, what: str, permission: str) -> None:
        """Give a role a permission on one resource."""
        right = {"resource_type": kind, "resource_pattern": what, "permission": permission}
        self._ask("POST", f"{ROLES}/permissions/add", {"role_id": role_id, **right})

    def remove_right(self, right_id: int) -> None:
        """Take a permission from its role."""
        self._ask("DELETE", f"{ROLES}/permissions/remove", {"role_permission_id": right_id})

    def assign(self, name: str, role_id: int) -> None:
        """Give a role to an account."""
        self._ask("POST", f"{ROLES}/assign", {"username": name, "role_id": role_id})

    def unassign(self, name: str, role_id: int) -> None:
        """Take a role from an account."""
        self._ask("DELETE", f"{ROLES}/unassign", {"username": name, "role_id": role_id})

    def _ask(
        self, method: str, path: str, body: dict[str, object] | None = None, params: dict[str, str] | None = None
    ) -> Any:
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        answer = http_request(get_default_host_creds(self._uri), path, method, json=body, params=params)
        return verify_rest_response(answer, path).json() if answer.content or not answer.ok else {}
