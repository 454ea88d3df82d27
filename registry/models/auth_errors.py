"""The named error for a 401 or 403 of MLflow: who asked, which role the request needs, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from registry.accounts import ADMIN, PASSWORD, USERNAME, signed_in_as
from weighbridge.errors import RegistryDenied

RoleNeeded = Literal["any", "builder", "reviewer", "operator", "admin"]
"""Role that an operation needs; any: it only reads, which every role of the line allows."""

NO_ACCOUNT = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "401")
NO_PERMISSION = ("PERMISSION_DENIED", "403")
SIGN_IN = f"Set {USERNAME} and {PASSWORD}, or write both into ~/.mlflow/credentials."


def explain_denial(
    operation: str, role: RoleNeeded, arguments: Sequence[object], error: Exception, address: str
) -> RegistryDenied | None:
    """Make the named error if MLflow refused the account; None if the error has another cause.

    Args:
        operation: Name of the method that was called.
        role: Role that the method needs.
        arguments: Arguments of the method. The first that is a line's name, or has one, names the line.
        error: Error of MLflow, or of its HTTP client.
        address: Address of MLflow.
    """
    code = getattr(error, "error_code", "") or str(getattr(getattr(error, "response", None), "status_code", ""))
    account = signed_in_as()
    if code in NO_ACCOUNT:
        reason = f"MLflow does not know {account} with this password." if account else "MLflow asks for an account."
        return RegistryDenied(reason, SIGN_IN, where=address)
    # A foreign server on the port may answer 403 too. Without an account of ours it is not about roles.
    if code not in NO_PERMISSION or not account:
        return None
    if role == "admin":
        return RegistryDenied(f"{account} is signed in and is no admin of MLflow.", f"Sign in as {ADMIN}.", address)
    line = next(filter(None, map(_line_name, arguments)), "the line")
    lacks = f"holds no role of {line}" if role == "any" else f"does not hold the role {role} of {line}"
    return RegistryDenied(
        f"{account} is signed in and {lacks}, which `{operation}` needs.",
        f"Use an account that has it ({USERNAME}, {PASSWORD}), or ask an admin to run `weighbridge roles apply "
        "FILE`, which also prepares a new line.",
        where=address,
    )


def _line_name(argument: object) -> str:
    return argument if isinstance(argument, str) else str(getattr(argument, "line", "") or "")
