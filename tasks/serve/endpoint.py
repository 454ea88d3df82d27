"""A network address at which an engine answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Endpoint(BaseModel):
    """A host and a port; one engine may answer at several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1, description="IP address or DNS name")
    port: int = Field(ge=1, le=65535)

    @property
    def url(self) -> str:
        """Its address for HTTP, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
