"""Quantize onto a small disk of its own that becomes full on the way, then again when there is room.

Run by test_quantize_full_disk.py inside a mount namespace: `python full_disk.py RELEASE MOUNT_POINT SPARE_KIB`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tasks.quantize import quantize_folder
from weighbridge.errors import DiskFull
from weighbridge.settings import load_settings

SIZE_MIB = 16
ROOM_WAS_CHECKED = 1
"""Units of work done when free space has been looked at and nothing has been written."""


def main(release: Path, disk: Path, spare_kib: int) -> None:
    """Print what happened as JSON."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "disk", str(disk)], check=True)
    filler = disk / "somebody-elses-file"

    def fill(done: int, total: int) -> None:
        if done == ROOM_WAS_CHECKED and not filler.exists():
            filler.write_bytes(bytes(shutil.disk_usage(disk).free - 1024 * spare_kib))

    try:
        quantize_folder(load_settings(), release, disk / "out", "int8", progress=fill)
        said: dict[str, object] = {}
    except DiskFull as error:
        said = {"what": error.what, "next_step": error.next_step, "status": error.exit_status}
    said["finished_files"] = len(list(disk.glob(".out.quantizing/model/*.safetensors")))
    said["looks_like_a_model"] = [str(path) for path in disk.rglob("config.json") if not path.is_symlink()]
    filler.unlink()
    record = quantize_folder(load_settings(), release, disk / "out", "int8")
    said["share"] = record.coverage.share_of_linear_bytes
    said["left"] = sorted(path.name for path in disk.iterdir())
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
