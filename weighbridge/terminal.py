"""The one place where text reaches a terminal: what could control it, or deceive its reader, is shown instead.

Names, tags, licences, log lines and messages come from outside. A control character in them could hide another line,
change the terminal's title or type at its prompt; a direction mark makes a name read as another one. `visible` writes
such characters as escapes (`\\x1b`, `\\u202e`). `console` makes a rich console that does this to everything it prints.
It takes no markup, so `[red]` in a name is three letters in brackets. Style is given by `styled`.
"""

from __future__ import annotations

import logging
import re
import secrets
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of what a terminal obeys or hides: controls, format characters, half characters, separators."""
_TAGS = range(0xE0000, 0xE1000)
"""Tags and further variation selectors, which are invisible too."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Nobody outside this process can know it, so no text from outside can contain a style.
_NONCE = secrets.token_hex(8)
_START, _MIDDLE, _END = f"\x02{_NONCE}", "\x03", f"\x04{_NONCE}"
_STYLED = re.compile(f"{_START}([^{_MIDDLE}]*){_MIDDLE}(.*?){_END}", re.DOTALL)


def visible(text: str) -> str:
    """Write characters that a terminal obeys or hides as escapes; tabs and newlines stay."""
    return text if text.isascii() and text.isprintable() else "".join(map(_show, text))


def on_one_line(text: str) -> str:
    """Write a text as `visible` does, newlines and tabs too, so that it cannot begin a line of its own."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def without_colours(text: str) -> str:
    """Remove the colours that a program wrote into its log; everything else is kept for `visible` to show."""
    return _COLOUR.sub("", text)


def styled(text: object, style: str) -> str:
    """Give a part of a printed text a style, such as `bold` or `red`; only `console` understands the result."""
    return f"{_START}{style}{_MIDDLE}{text}{_END}"


def console(**options: Any) -> Console:
    """Make a rich console that shows what it prints and obeys none of it.

    Args:
        options: Of `rich.console.Console`.
    """
    return _console_class()(**{"markup": False, "emoji": False, "highlight": False, **options})


def watch_log_records() -> None:
    """Make every log record of this process write its message and traceback as `visible` does."""
    logging.setLogRecordFactory(_VisibleRecord)


class _VisibleRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return visible(super().getMessage())

    # Formatters note a traceback here, and its last line is the message of an exception from outside.
    @property
    def exc_text(self) -> str | None:
        return self._exc_text

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._exc_text = visible(text) if text else text


def _show(letter: str) -> str:
    number = ord(letter)
    if letter in "\n\t" or (unicodedata.category(letter) not in _HIDDEN and number not in _TAGS):
        return letter
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _as_text(text: str, **options: Any) -> Text:
    from rich.text import Text

    assembled, end = Text(**options), 0
    for part in _STYLED.finditer(text):
        assembled.append(visible(text[end : part.start()]))
        assembled.append(visible(part[2]), part[1])
        end = part.end()
    return assembled.append(visible(text[end:]))


@lru_cache(maxsize=1)
def _console_class() -> type[Console]:
    # A function, because `weighbridge --help` need not wait for rich.
    from rich.console import Console
    from rich.segment import Segment

    class VisibleConsole(Console):
        """A console whose texts cannot control the terminal."""

        def render_str(self, text: str, **options: Any) -> Text:
            # Before the layout, so that columns are as wide as what is shown.
            kept = ("style", "justify", "overflow")
            return _as_text(text, **{name: options[name] for name in kept if options.get(name) is not None})

        def _render_buffer(self, buffer: Any) -> str:
            # Again after it, for texts that came as objects of rich. Segments with `control` are rich's own.
            shown = (
                part if part.control else Segment(visible(part.text), part.style) for part in buffer if part is not None
            )
            return super()._render_buffer(shown)

    return VisibleConsole
