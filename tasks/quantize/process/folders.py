"""Folders of a quantization: link the source's weights, match its layout, and name full disks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.quantize.tensors import INDEX, is_finite, not_finite_error, read_tensors, weight_files
from weighbridge.errors import DiskFull
from weighbridge.files import is_full


@contextmanager
def disk_full_errors(path: Path) -> Iterator[None]:
    """Turn the system's error for a full disk into `DiskFull`, with the file's name.

    Args:
        path: of the written file, for errors without a file name.

    Raises:
        DiskFull: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        written = Path(error.filename) if error.filename else path
        raise DiskFull(
            f"The disk became full while {written.name} was written.",
            "Free some disk (`weighbridge store gc --dry-run` says what can go) and run the same command again: it "
            "continues after the finished files.",
            where=str(written.parent),
        ) from error


def require_finite(source: Path) -> None:
    """Check every value before the slow part: one NaN makes a whole row's scale NaN."""
    for tensor in read_tensors(source):
        if not is_finite(tensor):
            raise not_finite_error(tensor)


def link_weights(source: Path, view: Path) -> Path:
    """Make a folder of links to the weights; without it the quantizer would also quantize other copies of them."""
    view.mkdir(exist_ok=True)
    for link in view.iterdir():
        link.unlink()
    names = ["config.json", *(file.name for file in weight_files(source))]
    if (source / INDEX).is_file():
        names.append(INDEX)
    for name in names:
        (view / name).symlink_to((source / name).resolve())
    return view


def match_source_layout(out: Path, source: Path) -> None:
    """Make written files match the source: an index only if the source has one, and readable by all."""
    if not (source / INDEX).is_file():
        (out / INDEX).unlink(missing_ok=True)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)
