"""Verify an artifact in a pod, then become its engine. Written into a ConfigMap by `weighbridge manifests`.

    python3 -P pod_launch.py DIGEST ARTIFACT -- COMMAND…

It runs in the engine's image, which has no Weighbridge, at each start of the container. So it uses the standard library
only, of Python 3.11 or later. The digest is the SHA-256 of the manifest's list of files, so whoever names the digest
names every byte. `weighbridge manifests` verified the signature when it named it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REFUSED_STATUS = 86
HASHERS = 4


def problem(digest: str, artifact: Path) -> str:
    """Compare an artifact's folder with its digest.

    Args:
        digest: of the artifact, 64 hex digits.
        artifact: its folder in the store, with `manifest.json` and `model/`.

    Returns:
        What is wrong; empty if nothing is.
    """
    try:
        files = json.loads((artifact / "manifest.json").read_bytes())["files"]
        listed = [{name: file[name] for name in ("path", "sha256", "size_bytes")} for file in files]
        listed.sort(key=lambda file: file["path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    listing = json.dumps(listed, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(listing.encode()).hexdigest() != digest:
        return "its manifest lists the files of something else"
    model = artifact / "model"
    present = {path.relative_to(model).as_posix(): path.lstat() for path in model.rglob("*")}
    folders = {name for name, found in present.items() if stat.S_ISDIR(found.st_mode)}
    regular = {name for name, found in present.items() if stat.S_ISREG(found.st_mode)}
    expected = {file["path"] for file in listed}
    if wrong := sorted((set(present) - folders - regular) | (regular ^ expected)):
        return f"{', '.join(wrong[:5])} is missing, added, or no regular file"
    with ThreadPoolExecutor(HASHERS) as pool:
        hashes = pool.map(lambda file: _sha256(model / file["path"]), listed)
        changed = [file["path"] for file, sha256 in zip(listed, hashes, strict=True) if sha256 != file["sha256"]]
    return f"{', '.join(changed[:5])} was altered" if changed else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Verify, then replace this process by the engine."""
    digest, artifact, _, *command = sys.argv[1:]
    if wrong := problem(digest, Path(artifact)):
        print(f"ArtifactDamaged: {digest} is no longer what was weighed: {wrong}.", file=sys.stderr, flush=True)
        sys.exit(REFUSED_STATUS)
    print(f"{digest} verified", file=sys.stderr, flush=True)
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
