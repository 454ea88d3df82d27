"""MLflow's accounts and roles over HTTP, as far as `roles apply` needs them.

MLflow's own client for these imports its whole server (6 s of a core), and the requests are few.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

WORKSPACE = "default"
"""The only workspace while MLflow's workspaces are off."""
OWN_ROLE = "__user_"
USERS, ROLES = "/api/2.0/mlflow/users", "/api/3.0/mlflow/roles"


class Right(BaseModel):
    """One permission of a role."""

    model_config = ConfigDict(frozen=True)

    id: int
    resource_type: str
    resource_pattern: str
    permission: str


class RoleRecord(BaseModel):
    """A role in MLflow."""

    model_config = ConfigDict(frozen=True)

    id: int
    name: str
    permissions: tuple[Right, ...] = ()

    @property
    def rights(self) -> dict[tuple[str, str], str]:
        """Kind and id of a resource -> permission."""
        return {(right.resource_type, right.resource_pattern): right.permission for right in self.permissions}


class AccountRecord(BaseModel):
    """An account in MLflow."""

    model_config = ConfigDict(frozen=True)

    username: str
    is_admin: bool = False
    roles: tuple[RoleRecord, ...] = ()

    @property
    def own_role(self) -> RoleRecord | None:
        """The role in which MLflow keeps rights that were given to the account itself, or that it has as a creator."""
        return next((role for role in self.roles if role.name.startswith(OWN_ROLE)), None)

    @property
    def held(self) -> dict[str, int]:
        """Name and id of every role that somebody gave to the account."""
        return {role.name: role.id for role in self.roles if not role.name.startswith(OWN_ROLE)}


class Accounts:
    """MLflow's accounts and roles, with the rights of the account that this process is signed in as.

    Args:
        tracking_uri: Address of MLflow.

    Raises:
        MlflowException, RequestException: From every method.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri

    def users(self) -> dict[str, AccountRecord]:
        """Return name -> account."""
        users = self._request("GET", f"{USERS}/list")["users"]
        return {user["username"]: AccountRecord.model_validate(user) for user in users}

    def roles(self) -> dict[str, RoleRecord]:
        """Return name -> role."""
        roles = self._request("GET", f"{ROLES}/list", params={"workspace": WORKSPACE})["roles"]
        return {role["name"]: RoleRecord.model_validate(role) for role in roles}

    def create_user(self, name: str, password: str) -> None:
        """Create an account without any right."""
        self._request("POST", f"{USERS}/create", {"username": name, "password": password})

    def set_password(self, name: str, password: str) -> None:
        """Change an account's password."""
        self._request("PATCH", f"{USERS}/update-password", {"username": name, "password": password})

    def demote(self, name: str) -> None:
        """Make an admin an account like others."""
        self._request("PATCH", f"{USERS}/update-admin", {"username": name, "is_admin": False})

    def create_role(self, name: str) -> RoleRecord:
        """Create a role without rights."""
        created = self._request("POST", f"{ROLES}/create", {"workspace": WORKSPACE, "name": name})
        return RoleRecord.model_validate(created["role"])

    def add_right(self, role_id: int, kind: str, what: str, permission: str) -> None:
        """Give a role a permission on one resource."""
        right = {"resource_type": kind, "resource_pattern": what, "permission": permission}
        self._request("POST", f"{ROLES}/permissions/add", {"role_id": role_id, **right})

    def remove_right(self, right_id: int) -> None:
        """Take a permission from its role."""
        self._request("DELETE", f"{ROLES}/permissions/remove", {"role_permission_id": right_id})

    def assign(self, name: str, role_id: int) -> None:
        """Give a role to an account."""
        self._request("POST", f"{ROLES}/assign", {"username": name, "role_id": role_id})

    def unassign(self, name: str, role_id: int) -> None:
        """Take a role from an account."""
        self._request("DELETE", f"{ROLES}/unassign", {"username": name, "role_id": role_id})

    def _request(
        self, method: str, path: str, body: dict[str, object] | None = None, params: dict[str, str] | None = None
    ) -> Any:
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        answer = http_request(get_default_host_creds(self._uri), path, method, json=body, params=params)
        return verify_rest_response(answer, path).json() if answer.content or not answer.ok else {}
