"""Functions that misbehave, for tests of the sandbox in which a publisher's input is read."""

from __future__ import annotations

import os
import signal
import sys
import time

from weighbridge.errors import DocumentInvalid


def add(left: int, right: int) -> int:
    """Behave."""
    return left + right


def print_and_add(left: int, right: int) -> int:
    """Write to standard output, as libraries do."""
    print('{"result": 0}', flush=True)
    os.write(1, b'{"result": 0}\n')
    return left + right


def loop_for_ever() -> None:
    """Take all time, in Python."""
    while True:
        pass


def compute_a_power() -> int:
    """Take all time, in C, where no signal is handled."""
    return len(str(10**10**8))


def sleep_for_ever() -> None:
    """Take all time without any of the processor's."""
    time.sleep(3600)


def take_all_memory() -> int:
    """Take all memory at once."""
    return len("a" * 10**10)


def take_memory_bit_by_bit() -> None:
    """Take all memory in small parts."""
    held = []
    while True:
        held.append(bytearray(10**6))


def give_too_much() -> str:
    """Give more than is received."""
    return "a" * 10**7


def crash() -> None:
    """Die as a C library does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    """End without an answer."""
    os._exit(0)


def recurse() -> None:
    """Call itself without end."""
    recurse()


def environment() -> list[str]:
    """Return the names of the environment's variables."""
    return sorted(os.environ)


def write(path: str) -> str:
    """Try to write a file; return how that failed."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(file, b"x" * 4096)
    except OSError as error:
        return type(error).__name__
    return f"wrote it, and {sys.getsizeof(path)} bytes"


def refuse() -> None:
    """Raise a named error."""
    raise DocumentInvalid("It is too deep.", "Make it flat.", "x.json")
