"""Names for what was typed wrongly: an unknown option, a missing argument, a value of another kind."""

from __future__ import annotations

from typer import Abort
from typer._click.exceptions import ClickException, NoArgsIsHelpError, UsageError

from weighbridge.errors import Interrupted, UsageInvalid, WeighbridgeError


def help_for(error: BaseException) -> str:
    """Return the help of a command that was typed without anything and does nothing by itself; else nothing."""
    return error.ctx.get_help() if isinstance(error, NoArgsIsHelpError) and error.ctx is not None else ""


def named_usage(error: BaseException) -> WeighbridgeError | None:
    """Name an error of the command line's parser; None if it is none.

    Args:
        error: Anything that was raised.
    """
    if isinstance(error, Abort):
        return Interrupted("Interrupted.", "Run the same command again: it continues where it stopped.")
    if not isinstance(error, ClickException):
        return None
    context = error.ctx if isinstance(error, UsageError) else None
    command = context.command_path if context else "weighbridge"
    what = "It needs a command." if isinstance(error, NoArgsIsHelpError) else error.format_message().strip()
    return UsageInvalid(" ".join(what.split()), f"`{command} --help` lists its options and arguments.", where=command)
