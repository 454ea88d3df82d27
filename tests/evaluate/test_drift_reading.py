from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from tasks.evaluate.drift.drift_check import config_signal, what_changed
from tasks.evaluate.drift.free_memory import fit_together, loaded_bytes
from tasks.evaluate.drift.held_out import HeldDocument, Turn
from tasks.evaluate.drift.reading import read_documents, render

WORDS = [
    "<s>",
    "[",
    "]",
    "user",
    "assistant",
    "system",
    "the",
    "cat",
    "sees",
    "a",
    "dog",
    "and",
    "bird",
    "runs",
    "sleeps",
]
TEXT = HeldDocument(name="english-a", text="the cat sees a dog and a bird runs and the dog sleeps")
CHAT = HeldDocument(
    name="chat-a",
    text="…",
    turns=(
        Turn(role="system", content="the cat"),
        Turn(role="user", content="sees a dog"),
        Turn(role="assistant", content="a bird runs"),
        Turn(role="user", content="and the cat"),
        Turn(role="assistant", content="the cat sleeps and sees a dog"),
    ),
)


BRACKETS = "{% for turn in messages %}[ {{ turn.role }} {{ turn.content }} ] {% endfor %}[ assistant"
PLAIN = "{% for turn in messages %}{{ turn.content }} {% endfor %}"
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"


class Tokens:
    """A tokenizer that knows words, and a template that puts them between brackets."""

    def __init__(self, words: list[str] = WORDS, *, bos: bool = False, template: str | None = BRACKETS) -> None:
        self.vocabulary = {word: number for number, word in enumerate(words)}
        self.words, self.bos, self.chat_template = words, bos, template
        self.bos_token_id = self.vocabulary["<s>"] if bos else None

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        ids = [self.vocabulary[word] for word in text.replace(":", "").split()]
        return SimpleNamespace(input_ids=[self.bos_token_id, *ids] if add_special_tokens and self.bos else ids)

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.words[id] for id in ids]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.convert_ids_to_tokens(ids))


def test_the_same_tokenizer_reads_the_same() -> None:
    windows, reading = read_documents([TEXT, CHAT], Tokens(), Tokens(), 64)
    assert reading.differ == reading.incomparable == () and reading.tokens_differ == 0
    assert [window.compared for window in windows] == [12, 3, 7]
    assert all(window.production_ids == window.candidate_ids for window in windows)
    # An answer is predicted from the whole conversation before it.
    assert (
        Tokens().decode(windows[1].production_ids) == "[ system the cat ] [ user sees a dog ] [ assistant a bird runs"
    )


def test_windows_keep_to_the_context_and_lose_only_their_first_token() -> None:
    windows, _ = read_documents([TEXT], Tokens(), Tokens(), 5)
    assert [len(window.production_ids) for window in windows] == [5, 5, 3]
    assert [window.compared for window in windows] == [4, 4, 2]
    chat, _ = read_documents([CHAT], Tokens(), Tokens(), 8)
    assert all(len(window.production_ids) <= 8 for window in chat)
    assert sum(window.compared for window in chat) == 10


def test_a_token_at_the_beginning_is_read_and_not_predicted() -> None:
    windows, reading = read_documents([TEXT], Tokens(bos=True), Tokens(), 64)
    (window,) = windows
    assert window.production_ids == (0, *window.candidate_ids) and window.compared == 12
    assert reading.differ == ("english-a",)


def test_exchanged_vocabulary_entries_are_reported_and_still_compared() -> None:
    exchanged = [{"cat": "dog", "dog": "cat"}.get(word, word) for word in WORDS]
    windows, reading = read_documents([TEXT, CHAT], Tokens(), Tokens(exchanged), 64)
    assert reading.differ == ("english-a", "chat-a") and reading.incomparable == ()
    assert reading.vocabulary_shared == 1.0 and reading.tokens_differ > 0
    assert reading.example == "in english-a, 'cat sees a dog' [7, 8, 9, 10] becomes 'cat sees a dog' [10, 8, 9, 7]"
    assert windows[0].production_ids != windows[0].candidate_ids


def test_another_template_is_reported_for_conversations_only() -> None:
    windows, reading = read_documents([TEXT, CHAT], Tokens(), Tokens(template=PLAIN), 64)
    assert reading.differ == ("chat-a",)
    assert [window.compared for window in windows] == [12, 3, 7]
    assert windows[1].candidate_ids[-3:] == windows[1].production_ids[-3:]
    assert "'[ system the cat' [1, 5, 6, 7] becomes 'the cat sees a'" in reading.example


class Letters(Tokens):
    """Cuts everything into letters."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[self.vocabulary[letter] for letter in text if letter in self.vocabulary])


def test_another_cut_is_not_compared_token_by_token() -> None:
    windows, reading = read_documents([TEXT], Tokens(), Letters(list("abcdefghijklmnopqrstuvwxyz")), 64)
    assert windows == [] and reading.incomparable == reading.differ == ("english-a",)
    assert reading.vocabulary_shared < 0.1


def test_a_template_without_system_turns_and_a_missing_template_still_read() -> None:
    merged = render(Tokens(template=REFUSES_SYSTEM + BRACKETS), CHAT.turns[:2])
    assert merged == "[ user the cat\n\nsees a dog ] [ assistant"
    assert render(Tokens(template=None), CHAT.turns[:2]) == "system: the cat\nuser: sees a dog\nassistant: "


def folder(path: Path, *, template: str = "a", config: dict[str, object] | None = None) -> Path:
    path.mkdir()
    (path / "chat_template.jinja").write_text(template)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "bfloat16", **(config or {})}))
    return path


def test_changes_of_the_small_files_are_described_in_words(tmp_path: Path) -> None:
    production = folder(tmp_path / "p", config={"rope_theta": 1e5})
    quantized = folder(tmp_path / "q", config={"rope_theta": 1e5, "quantization_config": {"quant_method": "x"}})
    assert what_changed(quantized, production) == ()
    other = folder(tmp_path / "o", template="b", config={"rope_theta": 1e4, "sliding_window": 64})
    template, rope, window = what_changed(other, production)
    assert template.startswith("The chat template differs: ")
    assert rope == "config.json: rope_theta is 10000.0, and 100000.0 in production."
    assert window == "config.json: sliding_window is 64, and not set in production."


def test_a_config_field_may_change_with_another_release_but_not_by_quantizing(tmp_path: Path) -> None:
    production = folder(tmp_path / "p", config={"rope_theta": 1e5})
    # A default that another version of transformers writes out is no change.
    assert (
        config_signal(
            folder(tmp_path / "q", config={"rope_theta": 1e5, "mlp_bias": False}), production, same_release=True
        ).outcome
        == "ok"
    )
    other = folder(tmp_path / "o", config={"rope_theta": 1e4})
    signal = config_signal(other, production, same_release=True)
    assert (signal.outcome, signal.note) == ("worse", "rope_theta")
    assert config_signal(other, production, same_release=False).outcome == "reported"


def test_packed_weights_are_counted_as_they_run(tmp_path: Path) -> None:
    header = {
        "a.weight_packed": {"dtype": "I32", "shape": [4, 8], "data_offsets": [0, 128]},
        "b.weight": {"dtype": "BF16", "shape": [10], "data_offsets": [128, 148]},
        "c.weight": {"dtype": "I8", "shape": [10], "data_offsets": [148, 158]},
        "__metadata__": {"format": "pt"},
    }
    text = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(158))
    assert loaded_bytes(tmp_path, "float32") == (4 * 8 * 8 + 10 + 10) * 4
    assert loaded_bytes(tmp_path, "auto") == (4 * 8 * 8 + 10 + 10) * 2
    assert fit_together([tmp_path, tmp_path], "cpu", "float32")


def test_a_model_larger_than_the_machine_is_not_held_beside_another(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2**40], "data_offsets": [0, 2**41]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert not fit_together([tmp_path], "cpu", "auto")
