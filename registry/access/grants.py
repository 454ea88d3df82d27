"""Making MLflow's accounts, roles and rights what a file of roles says, step by step; each step may be repeated.

What has to be done is found by looking first, so that a second run does nothing, and `--dry-run` is the same look
without the doing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import httpx
from pydantic import BaseModel, ConfigDict

from registry import accounts
from registry.access.admin_api import Accounts, RoleRecord
from registry.access.roles import ROLES, Role, Roles, User, rights, role_name
from registry.accounts import ADMIN, PIPELINE
from registry.models.client import reaches_mlflow
from registry.models.records import candidates_model
from registry.models.registry import Registry
from weighbridge.errors import StackDown
from weighbridge.settings import Settings


class Change(BaseModel):
    """Something that is not yet as it should be."""

    model_config = ConfigDict(frozen=True)

    what: str
    make: Callable[[], object]


class Granting:
    """MLflow's accounts and roles, changed as its admin.

    Args:
        settings: the installation.
        lines: names of the lines that there are to be roles of.

    Raises:
        StackDown, RegistryFailed, RegistryDenied: from `changes` and `apply`.
    """

    def __init__(self, settings: Settings, lines: list[str]) -> None:
        self.settings, self.lines, self.registry = settings, lines, Registry(settings)
        self._holds: dict[str, dict[str, int]] = {}
        """Account -> name and id of every role it holds, as it was before the first change."""
        self._roles: dict[str, RoleRecord] = {}
        self._accounts = Accounts(self.tracking_uri)

    @property
    def tracking_uri(self) -> str:
        """MLflow's address."""
        return self.registry.tracking_uri

    @reaches_mlflow(role="admin")
    def apply(self, roles: Roles | None, tell: Callable[[str], None], dry_run: bool = False) -> list[str]:
        """Make everything as it should be.

        Args:
            roles: who else holds what; None: only the installation's own account is looked at.
            tell: called with each change, before it is made.
            dry_run: change nothing.

        Returns:
            What was changed, or would be.

        Raises:
            PasswordUnusable: an account's password cannot be used; what comes before it is done.
        """
        with accounts.signed_in(ADMIN, self._admin_password()):
            changes = self._changes(roles)
            for change in changes:
                tell(change.what)
                if not dry_run:
                    change.make()
        return [change.what for change in changes]

    def _changes(self, roles: Roles | None) -> list[Change]:
        self.registry.client  # noqa: B018  # MLflow is told to be quiet, and not to repeat, by who connects first
        self._holds, self._roles = self._accounts.users(), self._accounts.roles()
        # What release, promote and rollback need; that the account is no reviewer is what keeps it from approving.
        wanted = {PIPELINE: User(builder=self.lines, operator=self.lines), **(roles.users if roles else {})}
        changes = [change for line in self.lines for change in self._line(line)]
        changes += [change for name, user in wanted.items() for change in self._account(name, user)]
        # A file of roles says all there is to say: who is not in it holds none.
        rest = set(self._holds) - {ADMIN, *wanted} if roles else ()
        return changes + [change for name in sorted(rest) for change in self._assignments(name, set())]

    # --- lines and their roles ------------------------------------------------------------------

    def _line(self, line: str) -> Iterator[Change]:
        client = self.registry.client
        experiment = client.get_experiment_by_name(line)
        models = (line, candidates_model(line))
        if experiment is None or not all(client.search_registered_models(f"name='{model}'") for model in models):
            yield Change(
                what=f"line {line}: its experiment and its two registered models are made",
                make=partial(self.registry.ensure_line, line),
            )
        for role in ROLES:
            name = role_name(role, line)
            wants = rights(role, line, experiment.experiment_id if experiment else "(new)")
            if name not in self._roles or self._roles[name].rights != wants:
                yield Change(what=f"role {_spoken(name)}: {_listed(wants)}", make=partial(self._make_role, role, line))

    def _make_role(self, role: Role, line: str) -> None:
        name = role_name(role, line)
        wants = rights(role, line, self.registry.ensure_line(line))
        made = self._roles[name] = self._roles.get(name) or self._accounts.create_role(name)
        for one in made.permissions:
            if wants.get((one.resource_type, one.resource_pattern)) != one.permission:
                self._accounts.remove_right(one.id)
        for (kind, what), permission in wants.items():
            if made.rights.get((kind, what)) != permission:
                self._accounts.add_right(made.id, kind, what, permission)

    # --- accounts and what they hold ------------------------------------------------------------

    def _account(self, name: str, user: User) -> Iterator[Change]:
        password, source = accounts.given_password(self.settings, name, user.password_file)
        source = source or f"{accounts.password_file(self.settings, name)}, made now"
        if name not in self._holds:
            yield Change(what=f"account {name}: made, password from {source}", make=partial(self._make, name, password))
        elif password and not self._opens(name, password):
            yield Change(
                what=f"account {name}: its password becomes that of {source}",
                make=partial(self._accounts.set_password, name, password),
            )
        yield from self._assignments(name, {role_name(*one) for one in user.roles(self.lines)})

    def _make(self, name: str, password: str) -> None:
        self._accounts.create_user(name, password or accounts.keep_password(self.settings, name))

    def _assignments(self, name: str, wants: set[str]) -> Iterator[Change]:
        has = {role: number for role, number in self._holds.get(name, {}).items() if role.partition(":")[0] in ROLES}
        for role in sorted(wants - set(has)):
            yield Change(what=f"{name} becomes {_spoken(role)}", make=partial(self._assign, name, role))
        for role in sorted(set(has) - wants):
            yield Change(
                what=f"{name} is no longer {_spoken(role)}",
                make=partial(self._accounts.unassign, name, has[role]),
            )

    def _assign(self, name: str, role: str) -> None:
        self._accounts.assign(name, self._roles[role].id)

    def _opens(self, name: str, password: str) -> bool:
        """Whether an account's password is this one."""
        answer = httpx.get(f"{self.tracking_uri}/api/2.0/mlflow/users/current", auth=(name, password), timeout=30)
        return answer.status_code == httpx.codes.OK

    def _admin_password(self) -> str:
        password, _ = accounts.given_password(self.settings, ADMIN)
        if not password:
            raise StackDown(
                "MLflow has no accounts yet.",
                "Run `weighbridge up --auth`, which makes the admin's, then run the same command again.",
                where=self.tracking_uri,
            )
        return password


def _listed(wants: dict[tuple[str, str], str]) -> str:
    return ", ".join(f"{permission} {kind} {what}" for (kind, what), permission in wants.items())


def _spoken(role: str) -> str:
    return " of ".join(role.split(":"))
