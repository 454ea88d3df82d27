"""Backup and restore of what people decided: MLflow's records and files, the audit log, and the store's index.

A backup is signed with the installation's key, and a restore believes no other. By default it does not hold weights:
they are in the store, which has a remote copy of its own (`WEIGHBRIDGE_STORE_URL`). A restore lists the missing ones.
Nor does it hold the key that signs, or any password. With production (`production.py`) it holds the weights of what
serves, the lines and suites, the routes, and all secrets, encrypted by a passphrase (`secrets.py`): enough to serve on
another machine. `container.py` has the format, `docs/how-to/back-up.md` how it is used.
"""

from registry.backup.archive import Contents
from registry.backup.create import back_up, forecast
from registry.backup.placing import require_whole
from registry.backup.production import RESTORED_ROUTES, ROOT, ROUTES_FILE, WATCH, Forecast, Production, ServedVersion
from registry.backup.restore import Restored, restore
from registry.backup.secrets import require_strong

__all__ = [
    "RESTORED_ROUTES",
    "ROOT",
    "ROUTES_FILE",
    "WATCH",
    "Contents",
    "Forecast",
    "Production",
    "Restored",
    "ServedVersion",
    "back_up",
    "forecast",
    "require_strong",
    "require_whole",
    "restore",
]
