"""The shape of a model for `fit` and `cost`, after a line that says who is asked: an answer may take seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.output import note

if TYPE_CHECKING:
    from tasks.fit.model.shape import ModelShape
    from weighbridge.settings import Settings


def read_shape(settings: Settings, source: str) -> ModelShape:
    """Read the shape of a source's address or of a folder; see `tasks.fit.model.shape.shape_of`.

    Raises:
        ArchitectureUnknown, SourceInvalid, SourceUnknown, SourceUnreachable, SourceDamaged, SourceRefused: as there.
    """
    from weighbridge.source_urls import looks_like_url

    if looks_like_url(source):
        note("source", f"reads the headers of {source}")
    from tasks.fit.model.shape import shape_of

    return shape_of(settings, source)
