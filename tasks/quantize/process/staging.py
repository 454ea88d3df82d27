"""Where a quantization is built: a folder of its own that a later run of the same work finds again.

Nothing in it is a model: `config.json` comes last, and the folder becomes one by being renamed when the proof is done.
After a kill, or where the disk was full, finished weight files stay for the next run; every other failure takes the
folder with it. What nobody comes back for, `weighbridge store gc` removes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from tasks.quantize.gguf.recipe import GgufRecipe
from tasks.quantize.plan.recipe import Recipe
from tasks.quantize.process.folders import disk_full_errors
from tasks.quantize.process.job import deciding_versions
from tasks.quantize.process.shards import LEDGER, FinishedShards
from tasks.quantize.tensors import weight_files
from weighbridge import __version__
from weighbridge.errors import DiskFull, QuantizationInterrupted, WeighbridgeError
from weighbridge.units import GIB

MODEL = "model"


@contextmanager
def resumable(folder: Path, lock: FileLock) -> Iterator[Path]:
    """The folder to build in, held by this process; see above for what becomes of it."""
    with lock:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with disk_full_errors(folder):
                yield folder
        except WeighbridgeError as error:
            if not isinstance(error, QuantizationInterrupted | DiskFull) or not (folder / LEDGER).is_file():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        except BaseException:
            # Ctrl-C, or an error that nobody foresaw: what is whole is of use to the next run either way.
            if not (folder / LEDGER).is_file():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def prepare_staging(staging: Path, identity: str) -> int:
    """Make a staging folder ready; what another work left there goes.

    Returns:
        Bytes of the files that an earlier run of the same work had finished.
    """
    finished = FinishedShards.load(staging, identity)
    if not finished.shards:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    return sum(shard.size_bytes for shard in finished.shards.values())


def require_disk(staging: Path, need_bytes: int, what: str) -> None:
    """Check the disk before something large is written.

    Raises:
        DiskFull: fewer than `need_bytes` are free.
    """
    free = shutil.disk_usage(staging).free
    if free < need_bytes:
        raise DiskFull(
            f"{what} needs {need_bytes / GIB:.2f} GiB and {free / GIB:.2f} GiB are free.",
            "Free some disk (`weighbridge store gc --dry-run` says what can go), or write to a larger one.",
            where=str(staging.parent),
        )


def job_identity(recipe: Recipe | GgufRecipe, source: str) -> str:
    """Name of a work: of what, into what, by which versions."""
    parts = [source, recipe.model_dump_json(), repr(deciding_versions(recipe.method)), __version__]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def folder_identity(folder: Path) -> str:
    """What tells a plain folder's weights from others without reading them: names, sizes and times of change."""
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in weight_files(folder)]
    return repr(stats)
