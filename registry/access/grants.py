"""Apply a file of roles to MLflow's accounts, roles and rights, step by step; each step may be repeated.

The differences are found first. So a second run changes nothing, and `--dry-run` only lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import httpx
from pydantic import BaseModel, ConfigDict

from registry import accounts
from registry.access.admin_api import AccountRecord, Accounts, RoleRecord
from registry.access.roles import ROLES, Role, Roles, User, rights, role_name
from registry.accounts import ADMIN, PIPELINE
from registry.models.client import reaches_mlflow
from registry.models.records import candidates_model
from registry.models.registry import Registry
from weighbridge.errors import StackDown
from weighbridge.settings import Settings


class Change(BaseModel):
    """One difference between MLflow and the file of roles."""

    model_config = ConfigDict(frozen=True)

    what: str
    apply: Callable[[], object]


class Granting:
    """MLflow's accounts and roles, changed as its admin.

    Args:
        settings: Settings of the installation.
        lines: Names of the lines that need roles.

    Raises:
        StackDown, RegistryFailed, RegistryDenied: From `apply`.
    """

    def __init__(self, settings: Settings, lines: list[str]) -> None:
        self.settings, self.lines, self.registry = settings, lines, Registry(settings)
        self._known: dict[str, AccountRecord] = {}
        """Every account as it was before the first change."""
        self._roles: dict[str, RoleRecord] = {}
        self._accounts = Accounts(self.tracking_uri)

    @property
    def tracking_uri(self) -> str:
        """Address of MLflow."""
        return self.registry.tracking_uri

    @reaches_mlflow(role="admin")
    def apply(self, roles: Roles | None, report: Callable[[str], None], dry_run: bool = False) -> list[str]:
        """Apply a file of roles.

        Args:
            roles: The file's content. None: only the installation's own account is checked.
            report: Called with each change, before it is made.
            dry_run: Change nothing.

        Returns:
            The changes that were made, or would be.

        Raises:
            PasswordUnusable: An account's password cannot be used. Earlier changes are made.
        """
        with accounts.signed_in(ADMIN, self._admin_password()):
            changes = self._changes(roles)
            for change in changes:
                report(change.what)
                if not dry_run:
                    change.apply()
        return [change.what for change in changes]

    def _changes(self, roles: Roles | None) -> list[Change]:
        self.registry.client  # noqa: B018  # the first connection sets MLflow's environment: no output, no retries
        self._known, self._roles = self._accounts.users(), self._accounts.roles()
        # The roles that release, promote and rollback need. The account is no reviewer, so it cannot approve.
        users = {PIPELINE: User(builder=self.lines, operator=self.lines), **(roles.users if roles else {})}
        changes = [change for line in self.lines for change in self._line(line)]
        changes += [change for name, user in users.items() for change in self._account(name, user)]
        # A file of roles is complete: an account that it does not name holds no role.
        others = set(self._known) - {ADMIN, *users} if roles else ()
        return changes + [change for name in sorted(others) for change in self._rights(name, set())]

    # --- lines and their roles ------------------------------------------------------------------

    def _line(self, line: str) -> Iterator[Change]:
        client = self.registry.client
        experiment = client.get_experiment_by_name(line)
        models = (line, candidates_model(line))
        if experiment is None or not all(client.search_registered_models(f"name='{model}'") for model in models):
            yield Change(
                what=f"line {line}: its experiment and its two registered models are created",
                apply=partial(self.registry.ensure_line, line),
            )
        for role in ROLES:
            name = role_name(role, line)
            wants = rights(role, line, experiment.experiment_id if experiment else "(new)")
            if name not in self._roles or self._roles[name].rights != wants:
                yield Change(what=f"role {_spoken(name)}: {_listed(wants)}", apply=partial(self._make_role, role, line))

    def _make_role(self, role: Role, line: str) -> None:
        name = role_name(role, line)
        wants = rights(role, line, self.registry.ensure_line(line))
        record = self._roles[name] = self._roles.get(name) or self._accounts.create_role(name)
        for right in record.permissions:
            if wants.get((right.resource_type, right.resource_pattern)) != right.permission:
                self._accounts.remove_right(right.id)
        for (kind, what), permission in wants.items():
            if record.rights.get((kind, what)) != permission:
                self._accounts.add_right(record.id, kind, what, permission)

    # --- accounts and what they hold ------------------------------------------------------------

    def _account(self, name: str, user: User) -> Iterator[Change]:
        password, source = accounts.given_password(self.settings, name, user.password_file)
        source = source or f"{accounts.password_file(self.settings, name)}, created now"
        if name not in self._known:
            yield Change(
                what=f"account {name}: created, password from {source}", apply=partial(self._make, name, password)
            )
        elif password and not self._opens(name, password):
            yield Change(
                what=f"account {name}: its password becomes that of {source}",
                apply=partial(self._accounts.set_password, name, password),
            )
        yield from self._rights(name, {role_name(*role) for role in user.roles(self.lines)})

    def _make(self, name: str, password: str) -> None:
        self._accounts.create_user(name, password or accounts.keep_password(self.settings, name))

    def _rights(self, name: str, wants: set[str]) -> Iterator[Change]:
        """Give the roles that a file names, and take all other rights: whoever has them could approve or move more."""
        account = self._known.get(name, AccountRecord(username=name))
        has = account.held
        if account.is_admin:
            yield Change(what=f"{name} is no longer an admin", apply=partial(self._accounts.demote, name))
        for right in account.own_role.permissions if account.own_role else ():
            what = f"{name} loses {right.permission} {right.resource_type} {right.resource_pattern}: no role has it"
            yield Change(what=what, apply=partial(self._accounts.remove_right, right.id))
        for role in sorted(wants - set(has)):
            yield Change(what=f"{name} becomes {_spoken(role)}", apply=partial(self._assign, name, role))
        for role in sorted(set(has) - wants):
            yield Change(
                what=f"{name} is no longer {_spoken(role)}",
                apply=partial(self._accounts.unassign, name, has[role]),
            )

    def _assign(self, name: str, role: str) -> None:
        self._accounts.assign(name, self._roles[role].id)

    def _opens(self, name: str, password: str) -> bool:
        """Return whether a password opens an account."""
        answer = httpx.get(f"{self.tracking_uri}/api/2.0/mlflow/users/current", auth=(name, password), timeout=30)
        return answer.status_code == httpx.codes.OK

    def _admin_password(self) -> str:
        password, _ = accounts.given_password(self.settings, ADMIN)
        if not password:
            raise StackDown(
                "MLflow has no accounts yet.",
                "Run `weighbridge up --auth`, which creates the admin's, then run the same command again.",
                where=self.tracking_uri,
            )
        return password


def _listed(wants: dict[tuple[str, str], str]) -> str:
    return ", ".join(f"{permission} {kind} {what}" for (kind, what), permission in wants.items())


def _spoken(role: str) -> str:
    return " of ".join(role.split(":"))
