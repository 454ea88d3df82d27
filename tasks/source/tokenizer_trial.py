"""A release's tokenizer, loaded and used once in a child process with limits before its weights are downloaded.

`tokenizer.json` holds regular expressions and vocabularies of the publisher's. Every later process loads it unlimited.
"""

from __future__ import annotations

from pathlib import Path

from tasks.source.published import read_tokenizer, refused
from tasks.source.published.tokenizer import MAX_TOKENIZER_BYTES
from weighbridge.documents import read_bytes
from weighbridge.errors import DocumentInvalid, SourceRefused
from weighbridge.untrusted import Limits, Unfinished, call

FILE = "tokenizer.json"
LIMITS = Limits(seconds=120, memory_bytes=4 * 2**30)
"""The largest known tokenizer, of 262,000 tokens, takes 4 s and 1.2 GiB on a busy machine."""
SAMPLES = (
    "The ferry leaves at nine, and nobody who lives on the island has ever missed it twice.\n",
    "x = [i**2 for i in range(10)]  # 3.14\t\r\n",
    "村里的老桥修了三次 café naïve 🙂‍↔️ \u202e",
    "a" * 5_000,
    " " * 5_000,
    "a1 " * 2_000,
    "1234567890" * 500,
    "!?" * 2_500,
    "\n" * 5_000,
)
"""Texts as they come, and those that make a careless regular expression slow."""


def try_tokenizer(folder: Path, of: str) -> None:
    """Load a folder's tokenizer.json and turn texts into tokens; a folder without one is fine.

    Raises:
        SourceRefused: it is not valid, or takes too long or too much memory.
    """
    path = folder / FILE
    if not path.is_file():
        return
    try:
        call(load_and_encode, str(path), f"{FILE} of {of}", limits=LIMITS)
    except Unfinished as error:
        how = "cannot be loaded" if error.outcome == "raised" else "has no end"
        raise refused(f"{FILE} of {of}", f"it {how}: {error}") from None


def load_and_encode(path: str, file: str) -> int:
    """Load a tokenizer and encode the samples; runs in the child."""
    try:
        content = read_bytes(Path(path), MAX_TOKENIZER_BYTES)
    except DocumentInvalid as error:
        raise SourceRefused(error.what, "Choose another release, or tell its publisher.", file) from None
    read_tokenizer(content, file)
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_buffer(content)
    return sum(len(tokenizer.encode(text).ids) for text in SAMPLES)
