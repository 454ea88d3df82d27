"""Who may do what: three roles a line, what each may do in MLflow, and the small file that gives them to people.

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

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from registry.accounts import ADMIN, PIPELINE
from registry.models.records import candidates_model
from weighbridge.errors import RolesInvalid
from weighbridge.files import read_yaml

Role = Literal["builder", "reviewer", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
APART = ("builder", "reviewer")
"""Who holds both of a line approves his own work."""
USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
"""An account is also a file's name and stands before the colon of a basic-auth header."""

# A role's rights on a line: on its experiment, on <line>-candidates, on <line>.
RIGHTS: dict[Role, tuple[str, str, str]] = {
    "builder": ("EDIT", "EDIT", "READ"),
    "reviewer": ("READ", "READ", "EDIT"),
    "operator": ("READ", "READ", "EDIT"),
}
NEXT = "Correct the file, then run the same command again; docs/how-to/accounts-and-roles.md has an example."


def role_name(role: str, line: str) -> str:
    """What a role of a line is called in MLflow; no line's name has a colon."""
    return f"{role}:{line}"


def rights(role: Role, line: str, experiment_id: str) -> dict[tuple[str, str], str]:
    """Kind and id of what a role is about -> MLflow's permission."""
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
    """One person's, or program's, roles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    builder: list[str] | Literal["all"] = []
    """Lines; `all`: those of `lines/` when the file is applied."""
    reviewer: list[str] | Literal["all"] = []
    operator: list[str] | Literal["all"] = []
    password_file: Path | None = None
    """Where the password is read from, mode 0600; relative to the file of roles. By default it comes from
    $WEIGHBRIDGE_PASSWORD_<NAME>, else from `<home>/mlflow/passwords/<name>`, which is made where it is missing."""

    def roles(self, lines: list[str]) -> set[tuple[Role, str]]:
        """Role and line of everything held."""
        held: dict[Role, Any] = {"builder": self.builder, "reviewer": self.reviewer, "operator": self.operator}
        return {(role, line) for role, named in held.items() for line in (lines if named == "all" else named)}


class Roles(BaseModel):
    """A file of roles. Who is not in it holds none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: dict[Annotated[str, AfterValidator(_user_name)], User]

    def held(self, lines: list[str]) -> dict[str, set[tuple[Role, str]]]:
        """User -> role and line of everything held."""
        return {name: user.roles(lines) for name, user in self.users.items()}


def read_roles(path: Path, lines: list[str]) -> Roles:
    """The roles that a file gives.

    Args:
        lines: names of all lines there are.

    Raises:
        RolesInvalid: the file does not parse, names a line that there is none of, or makes somebody builder and
            reviewer of one line.
    """
    try:
        found = Roles.model_validate(read_yaml(path))
    except OSError as error:
        raise RolesInvalid(f"The file cannot be read: {error.strerror}.", NEXT, where=str(path)) from None
    except yaml.YAMLError as error:
        raise RolesInvalid(f"The file is not YAML: {error}.", NEXT, where=str(path)) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RolesInvalid(f"{field}: {first['msg']}.", NEXT, where=str(path)) from None
    for name, held in found.held(lines).items():
        if unknown := sorted({line for _, line in held} - set(lines)):
            raise RolesInvalid(
                f"users.{name} names {', '.join(unknown)}; the lines are {', '.join(lines)}.", NEXT, where=str(path)
            )
        for line in lines:
            if all((role, line) in held for role in APART):
                raise RolesInvalid(
                    f"users.{name} is builder and reviewer of {line}, and would approve his own work.",
                    NEXT,
                    where=str(path),
                )
    users = {
        name: user.model_copy(update={"password_file": path.parent / user.password_file})
        for name, user in found.users.items()
        if user.password_file is not None
    }
    return Roles(users={**found.users, **users})
