"""Bring the audit log up to date with MLflow: changes made by hand, or by a process that was killed before it logged.

They are written as *found*, never as something that Weighbridge did. Otherwise a forged tag would become evidence that
a version was checked and served.
"""

from __future__ import annotations

from registry.audit import FOUND, AuditLog
from registry.models.reader import Reader
from registry.models.records import PREVIOUS, PRODUCTION

REASON = "made by hand, or by a process that was killed before it could write this down"


def reconcile(line: str, reader: Reader, log: AuditLog) -> None:
    """Write into the log the aliases and states of a line that differ from the log."""
    logged_aliases, logged_states = known(line, log)
    for alias, version in ((PREVIOUS, reader.previous(line)), (PRODUCTION, reader.production(line))):
        number = version.version if version else None
        if logged_aliases.get(alias) != number:
            log.append(FOUND, line, number, what=alias, reason=REASON, who="unknown")
    for version in reader.versions(line):
        if version.state and logged_states.get(version.version) != version.state:
            log.append(FOUND, line, version.version, what=f"state {version.state}", reason=REASON, who="unknown")


def known(line: str, log: AuditLog) -> tuple[dict[str, int | None], dict[int, str]]:
    """Read what the log last said of a line: version by alias, and state by version."""
    aliases: dict[str, int | None] = {}
    states: dict[int, str] = {}
    for entry in log.entries(line):
        if entry.action in (PRODUCTION, PREVIOUS):
            aliases[entry.action] = entry.version
        elif entry.action == FOUND and entry.what in (PRODUCTION, PREVIOUS):
            aliases[entry.what] = entry.version
        elif entry.action == "state" and entry.version is not None:
            states[entry.version] = entry.what
        elif entry.action == FOUND and entry.version is not None:
            states[entry.version] = entry.what.removeprefix("state ")
    return aliases, states
