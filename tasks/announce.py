"""Tell people how a flow ended: a release that waits, a rollout that stopped or ended, a rollback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import signature
from typing import ParamSpec, TypeVar

from tasks.steps import run_logger
from weighbridge.errors import ExitStatus, WeighbridgeError
from weighbridge.notifications import INFORM, WARN, is_repeated, read_addresses, send
from weighbridge.settings import load_settings
from weighbridge.terminal import visible

P = ParamSpec("P")
R = TypeVar("R")


def announced(flow: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a flow send a notification when it ends with something that a person should know.

    A result says what in `announcement`, or nothing where there is nothing to tell. What repeats itself is sent
    once. A notification that cannot be sent is logged, and changes nothing.

    Args:
        flow: Its name, for the title.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def announcing(*args: P.args, **kwargs: P.kwargs) -> R:
            # What serves is one story, whichever flow tells it.
            about = "release" if flow == "release" else "serving"
            line = str(signature(function).bind(*args, **kwargs).arguments.get("line", ""))
            try:
                result = function(*args, **kwargs)
            except WeighbridgeError as error:
                # Another process has the line, and says itself how that ends.
                if error.exit_status != ExitStatus.BUSY:
                    _announce(f"{about}/{line}", f"Weighbridge: {flow} of {line} ended with {error.code}", error, WARN)
                raise
            text = str(getattr(result, "announcement", ""))
            _announce(f"{about}/{line}", f"Weighbridge: {flow} of {line}", text, INFORM)
            return result

        return announcing

    return decorate


def _announce(about: str, title: str, what: object, kind: str) -> None:
    text = visible(str(what)) if what else ""
    try:
        settings = load_settings()
        if not read_addresses(settings) or is_repeated(settings, about, text and f"{title}\n{text}") or not text:
            return
        sent = send(settings, title, text, kind)
        lost = [f"line {delivery.line} ({delivery.service})" for delivery in sent if not delivery.delivered]
        if lost:
            run_logger().warning("A notification did not arrive: %s of the file of addresses", ", ".join(lost))
    except WeighbridgeError as error:
        run_logger().warning("No notification was sent: %s", error)
    except Exception as error:
        # A library's message may have an address in it.
        run_logger().warning("No notification was sent: %s", type(error).__name__)
