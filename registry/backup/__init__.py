"""Backup and restore of what people decided: MLflow's records and files, the audit log, and the store's index.

A backup is signed with the installation's key, and a restore believes no other. It does not hold weights: they are in
the store, which has a remote copy of its own (`WEIGHBRIDGE_STORE_URL`). A restore lists the missing ones. Nor does it
hold the key that signs, or any password: `docs/how-to/back-up.md` says what to keep elsewhere.
"""

from registry.backup.archive import Contents
from registry.backup.create import back_up
from registry.backup.restore import Restored, restore

__all__ = ["Contents", "Restored", "back_up", "restore"]
