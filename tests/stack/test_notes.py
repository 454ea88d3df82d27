"""Notes beneath the tables of `status`: a broken or slow one never keeps the others, or the table, away."""

from __future__ import annotations

import time

import pytest

from stack import notes
from weighbridge.settings import Settings, load_settings


@pytest.fixture
def settings() -> Settings:
    """Of an empty installation."""
    return load_settings()


def test_each_note_is_printed_in_the_order_of_the_list(settings: Settings) -> None:
    def first(settings: Settings) -> list[str]:
        time.sleep(0.05)
        return ["llama: rolling, unattended."]

    def second(settings: Settings) -> list[str]:
        return ["worker: frozen.", "worker: run `weighbridge up`."]

    assert notes.status_notes(settings, (first, second)) == [*first(settings), *second(settings)]


def test_a_note_that_fails_costs_its_own_sentence_only(settings: Settings) -> None:
    def rollouts_without_an_owner(settings: Settings) -> list[str]:
        raise OSError("the disk is gone")

    told = notes.status_notes(settings, (rollouts_without_an_owner, lambda settings: ["all is well"]))

    assert told == ["rollouts without an owner: not known (OSError: the disk is gone).", "all is well"]


def test_a_late_note_is_not_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "SECONDS", 0.1)

    def slow(settings: Settings) -> list[str]:
        time.sleep(1)
        return ["too late"]

    before = time.monotonic()
    told = notes.status_notes(settings, (slow, lambda settings: ["in time"]))

    assert time.monotonic() - before < 0.9
    assert [sentence[:15] for sentence in told] == ["slow: not known", "in time"]
