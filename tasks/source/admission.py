"""Admission: check a release against the line's rules before any of its weights is downloaded.

A refusal lists every reason, so that a user does not fix them one at a time.
"""

from __future__ import annotations

import ast
import unicodedata
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath, PureWindowsPath

from tasks.source.licences import AND
from tasks.source.pinned import Source
from tasks.source.small_files import CONFIG, names_code
from weighbridge.errors import SourceRefused
from weighbridge.line import Line
from weighbridge.units import GIB

# Larger files are served over Xet only (MAX_HTTP_DOWNLOAD_SIZE of huggingface_hub 1.33).
MAX_FILE_BYTES = 50 * 1000**3
CAUSAL_CLASSES = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"


def admit(source: Source, line: Line) -> None:
    """Check a release against the line's admission rules.

    Raises:
        SourceRefused: with every reason.
    """
    reasons = [*_licence(source, line), *_architecture(source, line), *source.flaws, *_files(source, line)]
    if reasons:
        raise SourceRefused(
            f"{source.short} is refused: {'; '.join(reasons)}.",
            f"Choose another release, or change `admission` in lines/{line.name}.yaml if the rule is wrong.",
            where=f"lines/{line.name}.yaml",
        )


def escapes(path: str) -> bool:
    """Whether a file name leads out of its folder on any system, or into the folder of partial files."""
    parts = path.split("/")
    if {"", ".", "..", ".partial"} & set(parts) or "\\" in path or "\0" in path:
        return True
    return any(PureWindowsPath(part).drive or PureWindowsPath(part).root for part in parts)


def name_problems(paths: Iterable[str]) -> Iterator[str]:
    """Problems with a repository's file names, a phrase each."""
    taken: dict[str, str] = {}
    listed = list(paths)
    for path in listed:
        if escapes(path):
            yield f"the file name {path!r} leads out of its folder"
        # On macOS and Windows, names that differ only in case or Unicode normalization are the same file.
        folded = unicodedata.normalize("NFC", path).casefold()
        if folded in taken:
            yield f"the file names {taken[folded]!r} and {path!r} are one on some disks"
        taken[folded] = path
    for path in listed:
        if any(parent.as_posix() in taken for parent in PurePosixPath(path.casefold()).parents):
            yield f"{path!r} is inside a path that is also a file"


def _licence(source: Source, line: Line) -> Iterator[str]:
    allowed = line.admission.licences
    listed = ", ".join(allowed) or "none"
    if source.licence is None:
        yield f"its card names no licence (allowed: {listed})"
    elif not {name.casefold() for name in source.licence.split(AND)} <= {name.casefold() for name in allowed}:
        yield f"licence {source.licence} is not allowed (allowed: {listed})"


def _architecture(source: Source, line: Line) -> Iterator[str]:
    if not source.config:
        # A config that cannot be read is one of the release's flaws.
        if not any(flaw.startswith(CONFIG) for flaw in source.flaws):
            yield f"it has no {CONFIG}"
        return
    names = source.config.get("architectures") or []
    allowed = line.admission.architectures
    if not names:
        yield f"{CONFIG} names no architecture"
    elif allowed:
        if not set(names) <= set(allowed):
            yield f"architecture {', '.join(names)} is not allowed (allowed: {', '.join(allowed)})"
    elif not set(names) <= _causal_classes():
        yield f"architecture {', '.join(names)} is not a causal language model of the installed transformers"
    if names_code(source.config):
        yield f"it requires running its own code (`auto_map` in {CONFIG}), which is never done"


def _causal_classes() -> set[str]:
    """Names of all causal language model classes of the installed transformers.

    They are parsed from its source, because importing the module takes 17 to 27 s with torch.
    """
    package = find_spec("transformers")
    assert package and package.submodule_search_locations
    module = Path(package.submodule_search_locations[0], "models", "auto", "modeling_auto.py")
    for statement in ast.parse(module.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == CAUSAL_CLASSES:
            # Pairs of model type and class name, or a tuple of class names.
            texts = {node.value for node in ast.walk(statement.value) if isinstance(node, ast.Constant)}
            return {text for text in texts if isinstance(text, str) and text[0].isupper()}
    from transformers.models.auto import modeling_auto

    return {str(name) for name in getattr(modeling_auto, CAUSAL_CLASSES).values()}


def _files(source: Source, line: Line) -> Iterator[str]:
    weights = [file for file in source.files if file.is_weights]
    if not weights:
        yield "it has no safetensors weights (pickles and GGUF are not read)"
    limit = line.admission.max_download_gib
    if source.size_bytes > limit * GIB:
        yield f"{source.size_bytes / GIB:.2f} GiB to download exceed the allowed {limit:g} GiB"
    for file in source.files:
        if file.size_bytes > MAX_FILE_BYTES:
            yield f"{file.path} is {file.size_bytes / 1e9:.0f} GB; files over 50 GB cannot be fetched by plain HTTP"
        if file.sha256 is None and file.git_oid is None:
            yield f"the Hub gives no hash to verify {file.path} by"
    yield from name_problems([*(file.path for file in source.files), *source.ignored])
