"""Read calibration text for methods that observe activations, and cut it into samples of equal length.

The project's text is in `eval_suites/calibration/`. A line may name the user's own file instead, which is better for a
model that serves one kind of question. Calibration text must not overlap with held text (`eval_suites/held/`, on which
drift is measured): a test compares the two.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.quantize.methods import FITTING, WITHOUT_DATA
from tasks.quantize.plan.recipe import Recipe
from tasks.source.chat_templates import Renderer, TemplateRefuses
from weighbridge.errors import CalibrationInvalid, ModelUnreadable
from weighbridge.settings import Settings
from weighbridge.validation import first_fault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BETWEEN_DOCUMENTS = re.compile(r"^====\n", re.MULTILINE)
_TURN = re.compile(r"^(system|user|assistant):[ \t]*", re.MULTILINE)
_SEED = 20
"""Shuffles the documents, so that the first samples are as mixed as all of them."""
TOKENS_PER_INPUT = 4
"""GPTQ's authors used 262,144 tokens for layers of up to 57,344 inputs (BLOOM-176B, arXiv:2210.17323)."""
BYTES_PER_TOKEN = 3
"""Of text, for an upper estimate of tokens: the project's text has 3.2 with SmolLM2's small vocabulary."""
MIN_WORDS, MIN_CHARACTERS = 10, 30
"""Different words, and different characters, that a text needs to say anything about a model's activations."""


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str


class CalibrationDocument(BaseModel):
    """A text, or a conversation to be rendered by the release's chat template."""

    model_config = ConfigDict(frozen=True)

    text: str = ""
    messages: tuple[Turn, ...] = ()


def calibration_files(settings: Settings, path: Path | None = None) -> tuple[Path, ...]:
    """Return the named calibration text, or the project's files.

    Args:
        settings: name the folder of the project's text.
        path: of the user's own text; None for the project's.
    """
    return (path,) if path else tuple(sorted((settings.root / "eval_suites" / "calibration").glob("*.txt")))


def calibration_documents(files: Sequence[Path]) -> tuple[CalibrationDocument, ...]:
    """Read calibration documents.

    Args:
        files: from `calibration_files`. A `.txt` file has lines of `====` between documents, and a document in it that
            begins with `user:` or `system:` is a conversation. A `.jsonl` file has `{"text": …}` or
            `{"messages": [{"role": …, "content": …}, …]}` on each line.

    Returns:
        The documents, in a fixed order that mixes kinds.

    Raises:
        CalibrationInvalid: the file is missing or empty, a line does not parse, or the text repeats few words.
    """
    if not files:
        raise _invalid("There is no calibration text", "eval_suites/calibration")
    documents = [document for file in files for document in _read(file)]
    where = place_of(files)
    if not documents:
        raise _invalid("The calibration text is empty", where)
    words = {word for document in documents for word in _whole(document).split()}
    # Text without spaces between words, such as Chinese, is checked by its characters.
    if len(words) < MIN_WORDS and len(set("".join(words))) < MIN_CHARACTERS:
        raise _invalid(f"The calibration text has only {len(words)} different words", where)
    random.Random(_SEED).shuffle(documents)
    return tuple(documents)


def target_tokens(recipe: Recipe, least: int) -> int:
    """How many calibration tokens a method uses if the text is long enough.

    Args:
        recipe: with a method that calibrates.
        least: the method's own number of tokens.
    """
    return max(least, TOKENS_PER_INPUT * recipe.widest_inputs) if recipe.method in FITTING else least


def estimate_tokens(files: Sequence[Path]) -> int:
    """Estimate the tokens of a text from the size of its files, rather too high."""
    return sum(file.stat().st_size for file in files if file.is_file()) // BYTES_PER_TOKEN


def place_of(files: Sequence[Path]) -> str:
    """Return a text's file, or the folder of several, for error messages."""
    return str(files[0] if len(files) == 1 else files[0].parent) if files else ""


def short_text_warning(recipe: Recipe, tokens: int) -> str:
    """A warning about a calibration text that was too short; empty if it was long enough.

    Args:
        recipe: of the quantization.
        tokens: number of tokens that were used.
    """
    if recipe.method not in FITTING or tokens >= recipe.widest_inputs:
        return ""
    return (
        f"{recipe.method} watched {tokens:,} tokens, fewer than the {recipe.widest_inputs:,} inputs of the widest "
        f"layer, and may be no closer than rtn; name a text of {target_tokens(recipe, 0):,} "
        "tokens as quantize.calibration."
    )


def calibration_digest(method: str, files: Sequence[Path]) -> str:
    """SHA-256 of a method's calibration text, in hex; empty for methods without data.

    Args:
        method: a file of `tasks/quantize/methods/`.
        files: as for `calibration_documents`, which reports a missing file.
    """
    if method in WITHOUT_DATA:
        return ""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def token_samples(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[CalibrationDocument],
    *,
    samples: int,
    sample_tokens: int,
    where: str = "",
) -> list[list[int]]:
    """Tokenize documents, join them with end-of-text tokens, and cut the result into samples of equal length.

    Args:
        tokenizer: the release's; its chat template, if any, renders conversations.
        documents: see `calibration_documents`.
        samples: maximum number; fewer if the text is shorter.
        sample_tokens: length of each.
        where: the text's file, for the error.

    Raises:
        CalibrationInvalid: the text is shorter than one sample, or has too few different tokens.
    """
    ids: list[int] = []
    with Renderer() as renderer:
        for document in documents:
            ids += _ids(tokenizer, document, renderer)
            if len(ids) >= samples * sample_tokens:
                break
    cut = [ids[at : at + sample_tokens] for at in range(0, len(ids) - sample_tokens + 1, sample_tokens)][:samples]
    if not cut:
        raise _invalid(
            f"The calibration text is {len(ids)} tokens long, less than one sample of {sample_tokens}", where
        )
    distinct = len({token for sample in cut for token in sample})
    if distinct < MIN_WORDS:
        raise _invalid(f"The release's tokenizer makes only {distinct} different tokens of the calibration text", where)
    return cut


def _read(file: Path) -> list[CalibrationDocument]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(f"The calibration text cannot be read ({error})", str(file)) from None
    if file.suffix == ".jsonl":
        lines = enumerate(text.splitlines(), start=1)
        return [_from_json(line, f"{file}:{number}") for number, line in lines if line.strip()]
    parts = (part.strip() for part in BETWEEN_DOCUMENTS.split(text))
    return [_from_text(part) for part in parts if part]


def _from_text(text: str) -> CalibrationDocument:
    found = list(_TURN.finditer(text))
    if not found or found[0].start():
        return CalibrationDocument(text=text)
    ends = [*(turn.start() for turn in found[1:]), len(text)]
    messages = (
        Turn(role=turn[1], content=text[turn.end() : end].strip()) for turn, end in zip(found, ends, strict=True)
    )
    return CalibrationDocument(messages=tuple(messages))


def _from_json(line: str, where: str) -> CalibrationDocument:
    try:
        document = CalibrationDocument.model_validate_json(line)
    except ValidationError as error:
        raise _invalid(f"A line of the calibration text does not parse ({first_fault(error)})", where) from None
    if not _whole(document).strip():
        raise _invalid("A line of the calibration text has neither `text` nor `messages`", where)
    return document


def _whole(document: CalibrationDocument) -> str:
    return document.text or "\n".join(message.content for message in document.messages)


def _ids(tokenizer: PreTrainedTokenizerBase, document: CalibrationDocument, renderer: Renderer) -> list[int]:
    if document.messages and tokenizer.chat_template:
        messages = [message.model_dump() for message in document.messages]
        try:
            text = renderer.render(tokenizer, messages, add_generation_prompt=False)
        except (ModelUnreadable, TemplateRefuses) as error:
            raise _invalid(f"The calibration text cannot be written as the release's prompts: {error}", "") from None
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(_whole(document))["input_ids"])
    end = tokenizer.eos_token_id
    return ids if end is None or (ids and ids[-1] == end) else [*ids, end]


def _invalid(what: str, where: str) -> CalibrationInvalid:
    return CalibrationInvalid(
        f"{what}.",
        "Name a .txt or .jsonl file with some thousand words of typical prompts, or none for the project's own text.",
        where=where,
    )
