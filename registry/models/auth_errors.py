"""What a 401 or a 403 of MLflow means: who asked, which role the request takes, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from registry.access.accounts import ADMIN, PASSWORD, USERNAME, signed_in_as
from weighbridge.errors import RegistryDenied

ROLE_NEEDED = {
    "ensure_line": "builder",
    "record": "builder",
    "record_release": "builder",
    "approve": "reviewer",
    "override": "reviewer",
    "comment": "operator",
    "set_previous": "operator",
    "set_production": "operator",
    "set_state": "operator",
}
"""Operation of `Registry` or `WatchRuns` -> the role that it takes; every other one reads, which any role may."""
SIGN_IN = f"Set {USERNAME} and {PASSWORD}, or write both into ~/.mlflow/credentials."


def denied(operation: str, arguments: Sequence[object], error: Exception, address: str) -> RegistryDenied | None:
    """The named error, where MLflow's is a refusal of the one who asks.

    Args:
        operation: the method's name.
        arguments: of the method; the first that is a line, or has one, is the one concerned.
        error: MLflow's, or that of its HTTP client.
        address: MLflow's.
    """
    code = getattr(error, "error_code", "") or str(getattr(getattr(error, "response", None), "status_code", ""))
    who = signed_in_as()
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "401"):
        known = f"MLflow does not know {who} with this password." if who else "MLflow asks who is there."
        return RegistryDenied(known, SIGN_IN, where=address)
    # A stranger on the port may refuse too: without a name of ours it is no matter of roles.
    if code not in ("PERMISSION_DENIED", "403") or not who:
        return None
    if operation == "apply":
        return RegistryDenied(f"{who} is signed in and is no admin of MLflow.", f"Do it as {ADMIN}.", where=address)
    line = next(filter(None, map(_line, arguments)), "the line")
    role = ROLE_NEEDED.get(operation)
    needs = f"does not hold the role {role} of {line}" if role else f"holds no role of {line}"
    return RegistryDenied(
        f"{who} is signed in and {needs}, which `{operation}` takes.",
        f"Sign in as somebody who does ({USERNAME}, {PASSWORD}), or have an admin give it: `weighbridge roles apply "
        "FILE`, which makes what a new line needs too.",
        where=address,
    )


def _line(argument: object) -> str:
    return argument if isinstance(argument, str) else str(getattr(argument, "line", "") or "")
