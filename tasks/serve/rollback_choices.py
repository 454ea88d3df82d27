"""Which versions a rollback may go back to, for the message where no `previous` decides that."""

from __future__ import annotations

from registry.installation import Installation
from registry.models.records import Version
from tasks.serve.standing import BARRED, Standing, standings
from weighbridge.errors import NothingToRollBack
from weighbridge.line import Line, line_names


def rollback_choices(installation: Installation, line: Line, serving: int | None) -> list[Version]:
    """List the versions that served before and neither failed nor were refused since, oldest first.

    Args:
        installation: has the registry and the audit log.
        line: whose versions.
        serving: number of the version that serves, which is no choice.

    Raises:
        AuditBroken: the log proves nothing.
    """
    known = standings(installation.audit_log, line.name)
    others = [version for version in installation.registry.versions(line.name) if version.version != serving]
    served = [version for version in others if known.get(version.version, Standing()).begun]
    return [version for version in served if not {version.state, known[version.version].state} & {*BARRED}]


def nothing_to_roll_back(installation: Installation, line: Line, production: Version | None) -> NothingToRollBack:
    """Make the error that names each version which `rollback --to` takes."""
    serving = production.version if production else None
    choices = rollback_choices(installation, line, serving)
    serves = f" Version {serving} serves." if serving else ""
    what = f"{line.name} has no previous version to go back to.{serves}"
    if not choices:
        why = "No other version ever served, or those that did have failed since."
        return NothingToRollBack(f"{what} {why}", _another(installation, line))
    listed = ", ".join(f"version {version.version} ({version.scheme}, {version.state})" for version in choices)
    numbers = ", ".join(str(version.version) for version in choices)
    return NothingToRollBack(
        f"{what} It may go to {listed}.",
        f"Name one, `--to {numbers}`: `weighbridge rollback {line.name} --to {choices[-1].version}`.",
    )


def _another(installation: Installation, line: Line) -> str:
    """Say how a line gets another version; one whose file is gone gets none."""
    if line.name not in line_names(installation.settings.root / "lines"):
        return (
            f"Put lines/{line.name}.yaml back, which is gone, to release another; or end the line: `weighbridge lines "
            f"retire {line.name}`."
        )
    return (
        f"Release and approve another: `weighbridge release {line.name}`; `weighbridge candidates {line.name}` lists "
        "what was weighed."
    )
