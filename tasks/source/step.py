"""The source room's steps."""

from __future__ import annotations

from registry.store import Artifact
from tasks.source import admission
from tasks.source import download as downloading
from tasks.source.hub import Source
from tasks.steps import log_progress, step
from weighbridge.line import Line


@step("admit", key=lambda source, plan: [source, plan.admission])
def admit(source: Source, plan: Line) -> str:
    """Hold a release against the line's rules; returns the commit that was admitted."""
    admission.admit(source, plan)
    return source.commit


@step("download", key=lambda source, line: [source.repo, source.commit, line])
def download(source: Source, line: str) -> Artifact:
    """Bring a release home, verified file by file."""
    return downloading.download(source, line, progress=log_progress(f"download {source.repo}", unit_bytes=True))
