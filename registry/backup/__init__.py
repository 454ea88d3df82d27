"""A copy of what people decided: MLflow's records and files, the audit log, the store's index; and the way back.

Weights are not in it: they are content in the store, which has a remote copy of its own (`WEIGHBRIDGE_STORE_URL`), and
a restore says which of them are missing. Nor is the key that signs manifests.
"""

from registry.backup.archive import Contents, read
from registry.backup.create import back_up
from registry.backup.restore import Restored, restore

__all__ = ["Contents", "Restored", "back_up", "read", "restore"]
