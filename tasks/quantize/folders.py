"""The source as the quantizing process sees it, and the result as the source looked."""

from __future__ import annotations

from pathlib import Path

from tasks.quantize.tensors import INDEX, is_finite, not_finite, read_tensors, weight_files


def require_finite(source: Path) -> None:
    """Look at every value before the slow part begins: one NaN makes a whole row's scale NaN."""
    for tensor in read_tensors(source):
        if not is_finite(tensor):
            raise not_finite(tensor)


def weights_only(source: Path, view: Path) -> Path:
    """A folder of links to what the quantizer shall read; it would quantize every other copy of the weights too."""
    view.mkdir(exist_ok=True)
    for link in view.iterdir():
        link.unlink()
    names = ["config.json", *(file.name for file in weight_files(source))]
    if (source / INDEX).is_file():
        names.append(INDEX)
    for name in names:
        (view / name).symlink_to((source / name).resolve())
    return view


def tidy(out: Path, source: Path) -> None:
    """Make the written files look like the source's: an index only where there was one, readable by all."""
    if not (source / INDEX).is_file():
        (out / INDEX).unlink(missing_ok=True)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)
