"""What a request may not say, whoever sends it: a place of this machine, or one thing by two names.

MLflow takes a folder for an experiment's files and as a version's source. Whoever may name one can have the server
read and write there, as the installation's user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from registry.server.message import Refused

SOURCE = re.compile(r"store://[^/]+/[0-9a-f]{64}|models:/[^/]+/[0-9]+")
"""What a version may be made of: an artifact of the store, or another version."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_EXPERIMENT, _VERSION = "/mlflow/experiments/create", "/mlflow/model-versions/create"
_SAME = ("run_id", "run_uuid")
"""Two names of one field. MLflow's client sends both; checks and handlers may prefer one."""


def check_contents(path: str, fields: Mapping[str, Any]) -> None:
    """Refuse fields that name a place of this machine, or one thing twice.

    Args:
        path: Path of the request.
        fields: Fields of its body, or of its query.

    Raises:
        Refused: They do.
    """
    if path.endswith(_EXPERIMENT) and fields.get("artifact_location"):
        raise Refused("it names a folder for an experiment's files, which MLflow chooses itself")
    if path.endswith(_VERSION) and not _is_source(fields.get("source")):
        raise Refused("it makes a version of something other than an artifact of the store or another version")
    if len({str(fields[name]) for name in _SAME if name in fields}) > 1:
        raise Refused("its run_id and run_uuid differ")
    for name, value in fields.items():
        if name.endswith("path") and not _is_below(value):
            raise Refused(f"its {name} leads out of the folder")


def _is_source(value: Any) -> bool:
    return isinstance(value, str) and SOURCE.fullmatch(value) is not None


def _is_below(path: Any) -> bool:
    """Return whether a path is relative, without steps upwards, and encoded once."""
    if path is None:
        return True
    if not isinstance(path, str) or path.startswith("/") or _SCHEME.match(path) or {"%", "\\"} & set(path):
        return False
    return path.isprintable() and ".." not in path.split("/")
