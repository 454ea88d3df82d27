"""The audit log: who changed what and when, in a file that can only grow. Each entry holds the hash of the one before.

The file is `<home>/audit/log.jsonl`, one JSON object a line, appended under a lock and synced before the call returns.
An entry that is edited, removed or moved breaks the chain from there on. A chain alone cannot show that its end was cut
off, or that all of it was rewritten. So the head (number and hash of the last entry) is noted: in `head.json` beside
the log, in MLflow, and where a setting says (`registry/witnesses.py`). `weighbridge audit verify` compares with each.

There are two kinds of entries. Weighbridge's own say what it intended: approve, reason, override, state, production,
previous (and so all rollouts and rollbacks), restored, and changes of clients' keys. Their `who` is what the process
claims. MLflow's server writes the others, `mlflow.*` (`registry/server`): one for each request that changed the
registry, with the account that the server verified, the address and the request's id. If both exist for one change,
the server's entry names the person.
"""

from registry.audit.entry import (
    ADMIT,
    COPIED,
    FOUND,
    NOBODY,
    NOTHING,
    REASON,
    RESTORED,
    Entry,
    Request,
    about_version,
    this_user,
)
from registry.audit.log import FOLDER, AuditLog, Ready
from registry.audit.note import Head

__all__ = [
    "ADMIT",
    "COPIED",
    "FOLDER",
    "FOUND",
    "NOBODY",
    "NOTHING",
    "REASON",
    "RESTORED",
    "AuditLog",
    "Entry",
    "Head",
    "Ready",
    "Request",
    "about_version",
    "this_user",
]
