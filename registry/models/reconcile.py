"""What MLflow says and the audit log does not: changes by hand, and those of a process that was killed meanwhile.

They are written down as *found*, never as what Weighbridge did: a tag that somebody forged must not become evidence
that a version was checked and served.
"""

from __future__ import annotations

from registry.audit import AuditLog
from registry.models.reader import Reader
from registry.models.records import PREVIOUS, PRODUCTION

FOUND = "found"
WHY = "made by hand, or by a process that was killed before it could write this down"


def reconcile(reader: Reader, log: AuditLog) -> None:
    """Write down the aliases and states of a line that the log does not know."""
    aliases, states = known(reader.line, log)
    for alias in (PREVIOUS, PRODUCTION):
        found = reader.by_alias(alias)
        number = found.version if found else None
        if aliases.get(alias) != number:
            log.append(FOUND, reader.line, number, what=alias, reason=WHY, who="unknown")
    for one in reader.versions(reader.line):
        if one.state and states.get(one.version) != one.state:
            log.append(FOUND, reader.line, one.version, what=f"state {one.state}", reason=WHY, who="unknown")


def known(line: str, log: AuditLog) -> tuple[dict[str, int | None], dict[int, str]]:
    """What the log last said of a line's aliases, and of the states of its versions."""
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
