"""The calibration text: accepted formats, refusals, and that it never overlaps with the held text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.quantize.calibration import (
    calibration_documents,
    calibration_files,
    estimate_tokens,
    short_text_warning,
    target_tokens,
    token_samples,
)
from tasks.quantize.plan.recipe import Recipe
from tasks.quantize.plan.targets import Layer
from weighbridge.errors import CalibrationInvalid
from weighbridge.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The ferry leaves at nine, and nobody who lives on the island has ever missed it twice in one year."


class Letters:
    """A tokenizer that makes a token of each character."""

    chat_template: str | None = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"
    eos_token_id: int | None = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace | dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


def _words(folder: str) -> list[list[str]]:
    return [
        re.findall(r"\w+", path.read_text().lower()) for path in sorted((ROOT / "eval_suites" / folder).glob("*.txt"))
    ]


def _phrases(texts: list[list[str]], length: int = 8) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + length]) for words in texts for at in range(len(words) - length + 1)}


def test_calibration_text_shares_no_eight_words_with_the_held_text() -> None:
    calibration, held = _phrases(_words("calibration")), _phrases(_words("held"))
    assert len(calibration) > 5000
    assert len(held) > 1000
    assert not calibration & held


def test_project_text_is_mixed_from_the_first_sample_on_and_always_in_one_order() -> None:
    documents = calibration_documents(calibration_files(load_settings()))
    assert documents == calibration_documents(calibration_files(load_settings()))
    assert len(documents) > 40
    early = documents[:20]
    assert any(document.messages for document in early)
    assert any("def " in document.text or "{" in document.text for document in early)
    assert any(re.search("[^\x00-\x7f]", document.text) for document in early)


def test_text_file_parts_documents_and_conversations(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text(f"{TEXT}\n====\nuser: When does it leave?\nassistant: At nine.\nuser: And on Sundays?\n")
    found = sorted(calibration_documents([file]), key=lambda document: len(document.messages))
    assert found[0].text == TEXT
    assert [(turn.role, turn.content) for turn in found[1].messages] == [
        ("user", "When does it leave?"),
        ("assistant", "At nine."),
        ("user", "And on Sundays?"),
    ]


def test_jsonl_takes_texts_and_messages(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    messages = [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Good morning"}]
    file.write_text(json.dumps({"text": TEXT}) + "\n\n" + json.dumps({"messages": messages, "id": 7}) + "\n")
    assert {bool(document.messages) for document in calibration_documents([file])} == {True, False}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b"\n====\n \n", "is empty"),
        ("same.txt", b"again " * 5000, "only 1 different words"),
        ("binary.txt", b"\xff\xfe\x00\x80", "cannot be read"),
        ("broken.jsonl", b'{"text": "fine fine"}\n{"text": \n', "does not parse"),
        ("fields.jsonl", b'{"prompt": "what is this?"}\n', "neither `text` nor `messages`"),
        ("role.jsonl", b'{"messages": [{"content": "no role"}]}\n', "does not parse"),
    ],
)
def test_uninformative_text_is_refused_with_a_named_error(tmp_path: Path, name: str, content: Any, says: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(CalibrationInvalid, match=says) as refused:
        calibration_documents([file])
    assert str(file) in refused.value.where


def test_line_of_a_broken_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"text": "fine"}\n\nnot json\n')
    with pytest.raises(CalibrationInvalid) as refused:
        calibration_documents([file])
    assert refused.value.where == f"{file}:3"


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CalibrationInvalid, match="cannot be read"):
        calibration_documents([tmp_path / "gone.txt"])


def test_chinese_without_spaces_is_a_text(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text(
        "村里的老桥修了三次每次都是在雨季之后第一次用的是木头第二次用的是石头第三次县里派来了工程师用钢筋混凝土重新做了桥墩"
    )
    assert len(calibration_documents([file])) == 1


def test_samples_are_equally_long_and_at_most_as_many_as_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text(f"{TEXT}\n====\n{TEXT} Indeed.\n")
    documents = calibration_documents([file])
    samples = token_samples(Letters(), documents, samples=3, sample_tokens=40)
    assert [len(sample) for sample in samples] == [40, 40, 40]
    whole = token_samples(Letters(), documents, samples=99, sample_tokens=40)
    assert whole[:3] == samples
    assert 0 in [token for sample in whole for token in sample], "texts end with the end token"


def test_conversation_passes_through_the_chat_template_if_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text(f"user: {TEXT}\nassistant: {TEXT}\n")
    documents = calibration_documents([file])

    def text(tokenizer: Letters) -> str:
        return "".join(map(chr, token_samples(tokenizer, documents, samples=1, sample_tokens=150)[0]))

    assert text(Letters()).startswith(f"<user>{TEXT}<assistant>The ferry")
    plain = Letters()
    plain.chat_template = None
    assert text(plain).startswith(f"{TEXT}\nThe ferry")


def test_too_short_a_text_is_refused_with_its_length(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text(TEXT)
    with pytest.raises(CalibrationInvalid, match=f"is {len(TEXT) + 1} tokens long, less than one sample of 512"):
        token_samples(Letters(), calibration_documents([file]), samples=4, sample_tokens=512, where=str(file))


def test_a_tokenizer_without_tokens_for_the_text_is_refused(tmp_path: Path) -> None:
    class Unknown(Letters):
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [3] * len(text)}

    file = tmp_path / "own.txt"
    file.write_text(TEXT)
    with pytest.raises(CalibrationInvalid, match="only 1 different tokens"):
        token_samples(Unknown(), calibration_documents([file]), samples=4, sample_tokens=50)


def _wide(method: str, inputs: int) -> Recipe:
    layer = Layer(name="down", shape=(8, inputs), dtype="BF16", source_bytes=16 * inputs)
    return Recipe(
        scheme="int4",
        method=method,
        format="pack-quantized",
        weight_bits=4,
        activation_bits=16,
        group_size=128,
        layers=(layer,),
        ignored=(),
        kept_bytes=0,
    )


@pytest.mark.parametrize("method", ["gptq", "smoothquant_gptq"])
def test_methods_that_fit_errors_use_several_tokens_for_each_input(method: str) -> None:
    assert target_tokens(_wide(method, 1536), 16_384) == 16_384
    assert target_tokens(_wide(method, 28_672), 16_384) == 114_688


def test_other_methods_use_no_more_tokens() -> None:
    assert target_tokens(_wide("awq", 28_672), 4_096) == 4_096


def test_a_text_shorter_than_the_widest_layer_gives_a_warning_with_the_needed_length() -> None:
    warning = short_text_warning(_wide("gptq", 28_672), 23_040)
    assert "23,040 tokens, fewer than the 28,672 inputs" in warning
    assert "a text of 114,688 tokens as quantize.calibration" in warning
    assert short_text_warning(_wide("gptq", 14_336), 23_040) == short_text_warning(_wide("awq", 28_672), 4_096) == ""


def test_a_texts_tokens_are_not_underestimated(tmp_path: Path) -> None:
    """More than a token a word, and fewer than one a byte, which no tokenizer of words makes."""
    file = tmp_path / "own.txt"
    file.write_text(TEXT * 100)
    assert len(TEXT.split()) * 100 < estimate_tokens([file]) < len(TEXT) * 100
    assert estimate_tokens(calibration_files(load_settings())) >= 23_000, (
        "the project's own, which SmolLM2's tokenizer makes 23,000 of"
    )
    assert estimate_tokens([tmp_path / "missing.txt"]) == 0
