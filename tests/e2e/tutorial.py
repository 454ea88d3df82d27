"""The commands of docs/tutorial-your-model.md, as a reader would type them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs" / "tutorial-your-model.md"
BLOCK = re.compile(r"^```(sh|json)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CLONE = "git clone ADDRESS-OF-THIS-REPOSITORY weighbridge\ncd weighbridge\n"
"""The first two lines, after which the reader is in the clone."""


def blocks(language: str) -> list[str]:
    """The page's fenced blocks of one language: `sh` to type, `json` to write into the suite."""
    return [text for found, text in BLOCK.findall(PAGE.read_text()) if found == language]


def commands() -> list[str]:
    """Weighbridge's own commands among those to type."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if re.match(r"(weighbridge|make) ", line)]


def clone(to: Path) -> Path:
    """Clone the checkout as the page's first line does, with the checkout's installed packages."""
    cloned = subprocess.run(["sh", "-c", 'git clone --quiet "$0" "$1"', CHECKOUT, to], check=False)
    if cloned.returncode:
        # An unpacked archive has no repository, and git refuses one of another user.
        shutil.copytree(CHECKOUT, to, ignore=shutil.ignore_patterns(".*", "__pycache__", "build"))
    (to / ".venv").mkdir()
    (to / ".venv" / "bin").symlink_to(CHECKOUT / ".venv" / "bin")
    # `make up` installs nothing where this is newer than pyproject.toml.
    (to / ".venv" / ".installed").touch()
    return to


def typed(block: str, folder: Path, places: dict[str, str], environment: dict[str, str] | None = None) -> str:
    """Run a block in the clone with the page's examples replaced by what is here; returns what it prints.

    Args:
        block: as the page has it.
        folder: the clone.
        places: the page's addresses, and what stands for them.
        environment: further variables.
    """
    for example, here in places.items():
        block = block.replace(example, here)
    path = f"{CHECKOUT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", block],
        cwd=folder,
        env={**os.environ, "PATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
