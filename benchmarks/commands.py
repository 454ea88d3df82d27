"""Times of commands that a person waits for, beside those of an earlier checkout, on one stack that is up.

    weighbridge up
    python benchmarks/commands.py --former ../earlier --line llama -n 7

Each round runs every command of both checkouts in turn, so that what else the machine does meets both alike. It
measures the whole command, or for those that last the time until its first line. The earlier checkout's code runs in
this Python environment, from its own folder. A command whose exit status is not the expected one ends the run.

`promote` is measured where it has nothing to do, and `approve` where the candidate is approved already, so that each
round finds what the one before it found. It does not know how much of a time is the machine's: run it on a quiet one.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Command:
    """A command to be timed.

    Args:
        name: What the table shows.
        arguments: After `weighbridge`.
        first_line: Whether the time ends with its first line; it is then interrupted.
        statuses: Exit statuses of a sound run.
    """

    name: str
    arguments: tuple[str, ...]
    first_line: bool = False
    statuses: tuple[int, ...] = (0,)
    in_turn: bool = True
    """False for `up`, which would start the services of one checkout again after that of the other."""


def commands(line: str, candidate: str) -> list[Command]:
    """The commands, with the line that they are about."""
    return [
        Command("--version", ("--version",)),
        Command("--help", ("--help",)),
        Command("lines", ("lines",), statuses=(0, 2)),
        Command("status", ("status",)),
        Command("audit", ("audit",)),
        Command("store ls", ("store", "ls")),
        Command("approve (approved already)", ("approve", line, candidate, "--reason", "timed")),
        Command("promote (nothing to do)", ("promote", line)),
        Command("release, first line", ("release", line), first_line=True),
        Command("up (when up)", ("up",), in_turn=False),
    ]


def seconds_of(command: Command, checkout: Path) -> float:
    """Run a command of a checkout, and return the seconds that it took.

    Raises:
        SystemExit: it ended as it should not.
    """
    # The folder of the checkout is the first place of imports, before the environment's own Weighbridge.
    program = [sys.executable, "-m", "cli.main", *command.arguments]
    began = time.perf_counter()
    with subprocess.Popen(
        program, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        if command.first_line:
            process.stdout.readline()
            seconds = time.perf_counter() - began
            process.terminate()
            process.stdout.read()
            return seconds
        text = process.stdout.read()
    seconds = time.perf_counter() - began
    if process.returncode not in command.statuses:
        sys.exit(f"{' '.join(command.arguments)} in {checkout}: status {process.returncode}\n{text.decode()}")
    return seconds


def main() -> None:
    """Time the commands, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--former", type=Path, required=True, help="a folder with an earlier checkout")
    parser.add_argument("--line", required=True, help="a line with a version in production")
    parser.add_argument("--candidate", default="1", help="of the line, approved already")
    parser.add_argument("-n", type=int, default=7, help="rounds")
    parser.add_argument("--only", nargs="*", help="names of the commands to time")
    options = parser.parse_args()
    timed = [
        command
        for command in commands(options.line, options.candidate)
        if not options.only or command.name in options.only
    ]
    checkouts = {"former": options.former.resolve(), "now": HERE}
    times: dict[tuple[str, str], list[float]] = {}
    alternating = [command for command in timed if command.in_turn]
    for command in alternating:
        for checkout in checkouts.values():
            seconds_of(command, checkout)  # compiles and caches
    for number in range(options.n):
        for command in alternating:
            for name, checkout in checkouts.items():
                times.setdefault((command.name, name), []).append(seconds_of(command, checkout))
        print(f"round {number + 1} of {options.n}", file=sys.stderr)
    for command in timed:
        if not command.in_turn:
            for name, checkout in checkouts.items():
                seconds_of(command, checkout)
                times[command.name, name] = [seconds_of(command, checkout) for _ in range(options.n)]
    print(
        f"Median (largest) of {options.n} runs, seconds; {os.cpu_count()} cores, Python {platform.python_version()}.\n"
    )
    print("| command | former | now | former / now |\n| --- | ---: | ---: | ---: |")
    for command in timed:
        former, now = times[command.name, "former"], times[command.name, "now"]
        cells = [f"{statistics.median(column):.2f} ({max(column):.2f})" for column in (former, now)]
        print(
            f"| `{command.name}` | {cells[0]} | {cells[1]} | {statistics.median(former) / statistics.median(now):.1f} |"
        )


if __name__ == "__main__":
    main()
