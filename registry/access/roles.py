"""Roles: three for each line, what each may do in MLflow, and the file that gives them to people.

```yaml
users:
  ada: {reviewer: [llama]}
  bo: {builder: all}
  on-call: {operator: all, password_file: secrets/on-call}
```
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from registry.accounts import ADMIN, PIPELINE
from registry.models.records import candidates_model
from weighbridge.documents import read_yaml
from weighbridge.errors import DocumentInvalid, RolesInvalid
from weighbridge.validation import first_fault

Role = Literal["builder", "reviewer", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
APART = ("builder", "reviewer")
"""Roles that one person must not hold together: they could approve their own work."""
USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
"""An account is also a file name, and stands before the colon of a basic-auth header."""

# A role's rights on a line: on its experiment, on <line>-candidates, on <line>.
RIGHTS: dict[Role, tuple[str, str, str]] = {
    "builder": ("EDIT", "EDIT", "READ"),
    "reviewer": ("READ", "READ", "EDIT"),
    "operator": ("READ", "READ", "EDIT"),
}
NEXT = "Correct the file, then run the same command again; docs/how-to/accounts-and-roles.md has an example."


def role_name(role: str, line: str) -> str:
    """Return the name of a line's role in MLflow. No line's name has a colon."""
    return f"{role}:{line}"


def rights(role: Role, line: str, experiment_id: str) -> dict[tuple[str, str], str]:
    """Return kind and id of a resource -> permission in MLflow, for a role."""
    resources = (
        ("experiment", experiment_id),
        ("registered_model", candidates_model(line)),
        ("registered_model", line),
    )
    return dict(zip(resources, RIGHTS[role]))


def _user_name(name: str) -> str:
    if not USER_NAME.fullmatch(name):
        raise ValueError("a name has letters, digits and . _ @ -")
    if name in (ADMIN, PIPELINE):
        raise ValueError("this account is the installation's own; `weighbridge up --auth` gives it what it needs")
    return name


class User(BaseModel):
    """Roles of one person or program."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    builder: list[str] | Literal["all"] = []
    """Names of lines; `all`: all lines in `lines/` when the file is applied."""
    reviewer: list[str] | Literal["all"] = []
    operator: list[str] | Literal["all"] = []
    password_file: Path | None = None
    """File with the password, of mode 0600, relative to the file of roles. By default the password comes from
    $WEIGHBRIDGE_PASSWORD_<NAME>, else from `<home>/mlflow/passwords/<name>`, which is created if it is missing."""

    def roles(self, lines: list[str]) -> set[tuple[Role, str]]:
        """Return role and line of every role held."""
        held: dict[Role, Any] = {"builder": self.builder, "reviewer": self.reviewer, "operator": self.operator}
        return {(role, line) for role, named in held.items() for line in (lines if named == "all" else named)}


class Roles(BaseModel):
    """A file of roles. Accounts that it does not name hold no role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: dict[Annotated[str, AfterValidator(_user_name)], User]

    def held(self, lines: list[str]) -> dict[str, set[tuple[Role, str]]]:
        """Return user -> role and line of every role held."""
        return {name: user.roles(lines) for name, user in self.users.items()}


def read_roles(path: Path, lines: list[str]) -> Roles:
    """Read a file of roles.

    Args:
        path: The file.
        lines: Names of all existing lines.

    Raises:
        RolesInvalid: The file cannot be parsed, names an unknown line, or makes one person builder and reviewer of one
            line.
    """
    try:
        found = Roles.model_validate(read_yaml(path))
    except DocumentInvalid as error:
        raise RolesInvalid(error.what, NEXT, where=error.where) from None
    except ValidationError as error:
        raise RolesInvalid(f"{first_fault(error, 'the file')}.", NEXT, where=str(path)) from None
    for name, named_roles in found.held(lines).items():
        if unknown := sorted({line for _, line in named_roles} - set(lines)):
            raise RolesInvalid(
                f"users.{name} names {', '.join(unknown)}; the lines are {', '.join(lines)}.", NEXT, where=str(path)
            )
        for line in lines:
            if all((role, line) in named_roles for role in APART):
                raise RolesInvalid(
                    f"users.{name} is builder and reviewer of {line}, and could approve their own work.",
                    NEXT,
                    where=str(path),
                )
    users = {
        name: user.model_copy(update={"password_file": path.parent / user.password_file})
        for name, user in found.users.items()
        if user.password_file is not None
    }
    return Roles(users={**found.users, **users})
