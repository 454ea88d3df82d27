"""The staging folder of a quantization, which a later run of the same job can resume.

Its content is not yet a model: `config.json` is written last, and the folder is renamed when coverage is proven. After
a kill or with a full disk, finished weight files stay for the next run; any other failure removes the folder.
`weighbridge store gc` removes abandoned ones.
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
    """Hold a staging folder while the block runs; keep it after an interruption, remove it otherwise."""
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
            # Ctrl-C or an unexpected error: finished files are useful to the next run either way.
            if not (folder / LEDGER).is_file():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def prepare_staging(staging: Path, identity: str) -> int:
    """Prepare a staging folder: keep finished files of the same job, remove those of another.

    Returns:
        Bytes of the finished files of an earlier run of the same job.
    """
    finished = FinishedShards.load(staging, identity)
    if not finished.shards:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    return sum(shard.size_bytes for shard in finished.shards.values())


def require_disk(staging: Path, need_bytes: int, what: str) -> None:
    """Check free disk space before large files are written.

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
    """Digest of a job: its source, recipe and versions."""
    parts = [source, recipe.model_dump_json(), repr(deciding_versions(recipe.method)), __version__]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def folder_identity(folder: Path) -> str:
    """Identify a folder's weights without reading them: by file names, sizes and modification times."""
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in weight_files(folder)]
    return repr(stats)
