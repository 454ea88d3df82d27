"""What a command leaves behind when it is interrupted: who has which share of a line's requests, and what goes on.

Ctrl-C on a run that is followed at the worker ends the following only; a closed terminal does the same without a word.
A flow in this process ends with it: at Ctrl-C, when its terminal is closed, and at SIGTERM. Whatever it has begun stays
as it is, and the same command goes on from there.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tasks.serve.gateway import Gateway
from weighbridge.errors import GatewayFailed, Interrupted
from weighbridge.settings import Settings

SIGNALS = (signal.SIGHUP, signal.SIGTERM)
"""What else than Ctrl-C asks a process to end: a closed terminal, `kill`, a shutdown."""
OPTIONS = {"revision": "--revision", "schemes": "--scheme", "version": "--version", "to": "--to", "reason": "--reason"}
"""Options of the commands by parameter of their flows."""


@contextmanager
def ending_by_signals() -> Iterator[None]:
    """Let a closed terminal and SIGTERM end this process as Ctrl-C does, so that what it does is ended in order.

    A signal that the caller ignores, as `nohup` does with that of a closed terminal, stays ignored.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command_of(flow: str, parameters: Mapping[str, Any], option: str = "") -> str:
    """The command that does the same again.

    Args:
        flow: its name, which is the command's.
        parameters: of the flow that were given.
        option: one more, such as `--here`.
    """
    words = ["weighbridge", flow, str(parameters["line"])]
    for name, value in parameters.items():
        if name in OPTIONS:
            for entry in value if isinstance(value, list) else [value]:
                words += [OPTIONS[name], str(entry)]
    return shlex.join([*words, *filter(None, [option])])


def not_followed(settings: Settings, flow: str, parameters: Mapping[str, Any], run: str) -> Interrupted:
    """Say what goes on at the worker after Ctrl-C.

    Args:
        settings: of the installation.
        flow: name of the flow.
        parameters: of its run.
        run: name of the run; empty if it is not known whether one was started.
    """
    line = str(parameters["line"])
    command = command_of(flow, parameters, "" if flow == "promote" else "--worker")
    if not run:
        return Interrupted(
            f"Interrupted; {flow}/{line} may have been started at the worker.", f"`{command}` follows it or starts it."
        )
    moves = f" {shares(settings, line)}" if flow != "release" else ""
    stops = f"`weighbridge rollback {line}` goes back" if flow != "release" else "its page in Prefect cancels it"
    return Interrupted(
        f"Not followed any more; {run} goes on at the worker.{moves}",
        f"`{command}` follows it again; {stops}.",
        where=settings.prefect_url,
    )


def ended_here(settings: Settings, flow: str, parameters: Mapping[str, Any]) -> Interrupted:
    """Say what a flow in this process has left when it was interrupted."""
    line = str(parameters["line"])
    command = command_of(flow, parameters, "--here" if flow == "promote" else "")
    if flow == "release":
        return Interrupted(
            f"The release of {line} was stopped; its finished steps are kept.", f"`{command}` continues after them."
        )
    if not _is_split(settings, line):
        return Interrupted(f"The {flow} of {line} was stopped. {shares(settings, line)}", f"`{command}` goes on.")
    return Interrupted(
        f"The {flow} of {line} was stopped, and nobody watches it now. {shares(settings, line)}",
        f"`{command}` goes on from there; `weighbridge rollback {line}` goes back.",
    )


def shares(settings: Settings, line: str) -> str:
    """Say in a sentence which version has which share of a line's new requests."""
    try:
        backends = Gateway(settings).routes().line(line).backends
    except GatewayFailed:
        return "Its routes cannot be read."
    having = sorted((backend for backend in backends if backend.weight), key=lambda backend: -backend.weight)
    if not having:
        return f"No version of {line} has requests."
    parts = [f"version {backend.version} has {backend.weight} %" for backend in having]
    return f"{', '.join(parts)[:1].upper()}{', '.join(parts)[1:]} of the new requests."


def _is_split(settings: Settings, line: str) -> bool:
    try:
        return len([entry for entry in Gateway(settings).routes().line(line).backends if entry.weight]) > 1
    except GatewayFailed:
        return False


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
