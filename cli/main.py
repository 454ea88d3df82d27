"""`weighbridge`: how every command begins and ends. Whatever goes wrong is one named error with one exit status.

Only the standard library is imported before `run` can name a failure, so that a broken installation has a name too.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

BROKEN_PIPE = 1
"""Exit status when the reader of standard output went away, as after `| head`; nothing is said."""
FAILED = 1
DISK = 6
"""The status of `DiskFull`, which may not be importable when it is needed."""


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line.

    Args:
        arguments: Without the program's name; by default those of this process.
    """
    _open_standard_streams()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        status = BROKEN_PIPE
    except BaseException as error:
        status = _fail(error, arguments)
    _end(status)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Return whether a command line has the option `--json`; what follows `--` are names, not options."""
    options = arguments[: list(arguments).index("--")] if "--" in arguments else arguments
    return "--json" in options


def _run(arguments: Sequence[str]) -> int:
    from weighbridge.private_files import keep_files_private
    from weighbridge.terminal import watch_log_records

    keep_files_private()
    watch_log_records()
    from cli import output

    if asks_for_json(arguments):
        output.documents.reserve()
    from cli.app import app

    # Without its own handling of errors, which prints them, and exits.
    status = app(list(arguments), prog_name="weighbridge", standalone_mode=False)
    if status == output.INTERRUPTED and output.documents.stream is not None and not output.documents.printed:
        # typer has turned Ctrl-C into this status.
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0


def _fail(error: BaseException, arguments: Sequence[str]) -> int:
    """Show an error, and return its exit status."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED if error.code else 0
    try:
        from cli import output
        from cli.usage import help_for, named_usage
        from weighbridge.failures import named

        if (text := help_for(error)) and not asks_for_json(arguments):
            print(text)
            return output.INPUT
        failure = named_usage(error) or named(error)
        output.show_error(failure)
        sys.stdout.flush()
        return int(failure.exit_status)
    except BrokenPipeError:
        return BROKEN_PIPE
    except BaseException as second:
        if second.__class__ is OSError and second.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            _say_plainly("DiskFull: The disk became full while standard output was written. Next: free some disk.")
            return DISK
        # The error could not be shown as usual: rich is broken, or standard output takes nothing.
        kinds = " and then ".join(type(part).__name__ for part in (error, second))
        _say_plainly(f"Unexpected: {kinds}. Next: run `make install` in the checkout, and look at standard output.")
        return FAILED


def _say_plainly(text: str) -> None:
    try:
        os.write(2, f"{text}\n".encode())
    except OSError:
        return


def _open_standard_streams() -> None:
    """Open a standard stream that the caller closed.

    The next file that is opened would take its number, and whatever is printed would be written into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - it stays open like the stream it is
    for stream in (sys.stdout, sys.stderr):
        # A terminal with another encoding shows an escape instead of ending the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _end(status: int) -> NoReturn:
    """Exit without a second attempt to write what standard output did not take."""
    for stream in (sys.stdout, sys.__stdout__, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)


if __name__ == "__main__":
    run()
