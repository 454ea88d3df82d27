"""Record every successful change of the registry in the audit log, from inside MLflow's server.

Account, address and request id are written to a note before MLflow acts, and moved from there into the audit log after
it has answered. A server that is killed in between leaves the note. The next server moves it into the log, with a
reason that says so.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from pathlib import Path
from typing import Any

import psutil
from flask import Flask, Response, g, request
from mlflow.protos import model_registry_pb2
from mlflow.server.handlers import _get_request_message, get_endpoints
from pydantic import BaseModel, ConfigDict

from registry.audit import NOBODY, AuditLog, Request
from registry.models.records import line_of
from weighbridge.errors import WeighbridgeError
from weighbridge.files import write_whole

CHANGES = (
    "CreateRegisteredModel",
    "RenameRegisteredModel",
    "UpdateRegisteredModel",
    "DeleteRegisteredModel",
    "SetRegisteredModelTag",
    "DeleteRegisteredModelTag",
    "SetRegisteredModelAlias",
    "DeleteRegisteredModelAlias",
    "CreateModelVersion",
    "UpdateModelVersion",
    "DeleteModelVersion",
    "TransitionModelVersionStage",
    "SetModelVersionTag",
    "DeleteModelVersionTag",
)
"""Every request of MLflow's registry that changes something, by its name in the protocol."""
ADMINISTRATION = re.compile(r"/(?:ajax-)?api/[\d.]+/mlflow/(users|roles|webhooks)(?:/(.+))?")
"""Paths of requests about accounts, roles, rights and webhooks."""
SAFE_FIELDS = (
    *("username", "is_admin", "role", "name", "resource_type", "resource_pattern", "permission"),
    *("webhook_id", "url", "status"),
)
"""Fields of such a request that are recorded; a password, and a webhook's secret, is not."""
_VERBS = {"POST": "create", "PATCH": "update", "DELETE": "delete"}
_HOST = re.compile(r"([a-z]+://)(?:[^/?#]*@)?([^/?#@]*)", re.IGNORECASE)
LONGEST_VALUE = 200
"""Longest recorded value, in characters."""

_logger = logging.getLogger("weighbridge.audit")


class Asked(BaseModel):
    """A requested change."""

    model_config = ConfigDict(frozen=True)

    action: str
    who: str
    line: str
    version: int | None
    what: str
    request: Request


class _Notes:
    """Notes of requests that MLflow is processing, one file each."""

    def __init__(self, folder: Path) -> None:
        self.log, self.folder = AuditLog(folder), folder / "asked"

    def path(self, asked: Asked) -> Path:
        return self.folder / f"{os.getpid()}-{asked.request.id}.json"

    def sweep(self) -> None:
        """Move into the log the notes that killed servers left."""
        for path in sorted(self.folder.glob("*.json")):
            pid = int(path.name.partition("-")[0])
            if pid != os.getpid() and psutil.pid_exists(pid):
                continue
            asked = Asked.model_validate_json(path.read_bytes())
            self.write(asked, "the server ended before it answered: the change may have been made or not")
            path.unlink()

    def write(self, asked: Asked, reason: str = "") -> None:
        self.log.append(
            asked.action,
            asked.line,
            asked.version,
            what=asked.what,
            reason=reason,
            who=asked.who,
            request=asked.request,
        )


def record_changes(app: Flask, folder: Path) -> None:
    """Make an MLflow server record its changes in an audit log.

    It must be called after basic-auth has added its checks, so that refused requests are not recorded.

    Args:
        app: MLflow's Flask application.
        folder: Folder of the audit log.
    """
    notes = _Notes(folder)
    notes.sweep()
    protocol = {getattr(model_registry_pb2, name): name for name in CHANGES}
    routes = {
        (path, method): message
        for path, message, methods in get_endpoints(protocol.get)
        if message in protocol.values()
        for method in methods
    }

    @app.before_request
    def note() -> Response | None:
        g.weighbridge_asked = None
        if (name := routes.get((request.path, request.method))) is not None:
            asked = _asked(name, _get_request_message(getattr(model_registry_pb2, name)()))
        elif request.method != "GET" and (found := ADMINISTRATION.fullmatch(request.path)):
            asked = _asked_of_administrators(found[1], found[2] or "")
        else:
            return None
        try:
            notes.log.require_writable()
            write_whole(notes.path(asked), asked.model_dump_json())
        except (OSError, WeighbridgeError) as error:
            _logger.exception("The audit log does not take an entry")
            return _refusal(f"The change was not made, because the audit log would not take it: {error}")
        g.weighbridge_asked = asked
        return None

    @app.after_request
    def record(response: Response) -> Response:
        asked: Asked | None = g.pop("weighbridge_asked", None)
        if asked is None:
            return response
        if response.status_code < 400:
            try:
                notes.write(_with_version(asked, response))
            except (OSError, WeighbridgeError) as error:
                # The note stays, so that the next server tries again.
                _logger.exception("The audit log does not take an entry")
                return _refusal(f"The change was made, but the audit log did not take it: {error}")
        notes.path(asked).unlink(missing_ok=True)
        response.headers["X-Request-Id"] = asked.request.id
        return response


def _asked(name: str, message: Any) -> Asked:
    fields = {field.name: value for field, value in message.ListFields() if not field.is_repeated}
    model, version = str(fields.pop("name", "")), str(fields.pop("version", ""))
    return Asked(
        action="mlflow." + re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(),
        who=_who(),
        line=line_of(model),
        version=int(version) if version.isdecimal() else None,
        what=", ".join(f"{field} {_short(value)}" for field, value in fields.items()),
        request=_request(model),
    )


def _asked_of_administrators(subject: str, rest: str) -> Asked:
    body = request.get_json(silent=True)
    fields = dict(body) if isinstance(body, dict) else {}
    if str(number := fields.pop("role_id", "")).isdecimal():
        fields["role"] = _role_name(int(number))
    action = f"mlflow.{subject}.{rest.replace('/', '.')}"
    if subject == "webhooks":
        action, fields = (
            f"mlflow.{_VERBS.get(request.method, request.method.lower())}_webhook",
            _of_webhook(rest, fields),
        )
    return Asked(
        action=action,
        who=_who(),
        line="",
        version=None,
        what=", ".join(f"{field} {_short(fields[field])}" for field in SAFE_FIELDS if field in fields),
        request=_request(""),
    )


def _of_webhook(webhook_id: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return what is recorded of a webhook. Of its address that is the host, because the rest may hold a token."""
    host = _HOST.match(str(fields.get("url", "")))
    return {
        **fields,
        **({"webhook_id": webhook_id} if webhook_id else {}),
        **({"url": host[1] + host[2] if host else "…"} if "url" in fields else {}),
    }


def _role_name(number: int) -> str:
    """Return a role's name, because its number may belong to another role when the log is read."""
    from mlflow.exceptions import MlflowException
    from mlflow.server import auth

    try:
        return str(auth.store.get_role(number).name)
    except MlflowException:
        return str(number)


def _with_version(asked: Asked, response: Response) -> Asked:
    """Add the number of a new version, which only the answer has."""
    if asked.version is not None or asked.action != "mlflow.create_model_version":
        return asked
    version = json.loads(response.get_data())["model_version"]["version"]
    return asked.model_copy(update={"version": int(version)})


def _who() -> str:
    return str(g.get("mlflow_authenticated_user") or NOBODY)


def _request(model: str) -> Request:
    return Request(model=model, address=request.remote_addr or "", id=secrets.token_hex(8))


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def _refusal(message: str) -> Response:
    return Response(
        json.dumps({"error_code": "INTERNAL_ERROR", "message": message}), status=500, mimetype="application/json"
    )
