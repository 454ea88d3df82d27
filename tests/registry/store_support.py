"""Artifacts for the store's tests."""

from __future__ import annotations

from pathlib import Path

from registry.store import Artifact, Store

COMMIT = "c" * 40
FILES = {"config.json": "{}", "sub/model.safetensors": "weights"}


def make_artifact(
    store: Store,
    files: dict[str, str] | None = None,
    *,
    line: str = "line",
    scheme: str = "int8",
    commit: str = COMMIT,
    by: str = "quantize",
) -> Artifact:
    """Put an artifact into the store; other files are another artifact."""
    with store.fresh_staging(line, f"make-{scheme}") as folder:
        for name, text in (FILES if files is None else files).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        facts: dict[str, object] = {"made_by": by}
        return store.adopt(folder, line=line, scheme=scheme, repo="org/m", commit=commit, facts=facts)


def rewrite(path: Path, content: str) -> None:
    """Write over a file of the store, which is read-only."""
    path.chmod(0o600)
    path.write_text(content)
