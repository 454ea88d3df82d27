"""Where settings come from besides variables: the record of the running stack, and what the home remembers."""

from __future__ import annotations

import os
from typing import Any

from pydantic_settings import PydanticBaseSettingsSource

from weighbridge.documents import read_json
from weighbridge.errors import DocumentInvalid
from weighbridge.home import RECORD, home_folder, kept_offset, read_offset

PORT_FIELDS = ("gateway_port", "mlflow_port", "prefect_port", "webhook_port", "engine_port_first")
"""Ports that `port_offset` moves."""
LARGEST_OFFSET = 57000
"""The last port of the engines, 8249, is then still one."""


class StackRecord(PydanticBaseSettingsSource):
    """Settings recorded in the running stack's `stack.json`."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # pragma: no cover
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        try:
            recorded = read_json(home_folder() / RECORD)
        except DocumentInvalid:
            return {}
        if not isinstance(recorded, dict):
            return {}
        # HF_ENDPOINT in the shell is newer than the record.
        if "HF_ENDPOINT" in os.environ:
            recorded.pop("hf_endpoint", None)
        offset = read_offset(self.current_state.get("port_offset"))
        before = read_offset(recorded.get("port_offset", 0))
        if offset is not None and before is not None and offset != before:
            # Ports that follow from the offset before this one.
            moved = {
                name
                for name in PORT_FIELDS
                if recorded.get(name) == self.settings_cls.model_fields[name].default + before
            }
            recorded = {name: value for name, value in recorded.items() if name not in (*moved, "port_offset")}
        return {name: value for name, value in recorded.items() if name not in ("root", "home")}


class MovedPorts(PydanticBaseSettingsSource):
    """The default ports, moved by the offset of the environment or of the home."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # pragma: no cover
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        offset = read_offset(self.current_state.get("port_offset", kept_offset(home_folder())))
        # One that is out of range is named when the settings are validated.
        if not offset or not 0 <= offset <= LARGEST_OFFSET:
            return {}
        ports = {name: self.settings_cls.model_fields[name].default + offset for name in PORT_FIELDS}
        return {"port_offset": offset, **ports}
