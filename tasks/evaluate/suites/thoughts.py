"""Thoughts of reasoning models: what stands between a family's markers is no part of the answer.

Add a family by adding a row to FAMILIES. A family is looked for in every answer where it is safe to, that is where its
markers are no ordinary text; the others only at an answer's very beginning, or where the model's template names them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Markers:
    """How one family of models delimits its thoughts."""

    opening: str
    closing: str
    anywhere: bool = True
    """Whether the markers are distinctive enough to be looked for in the middle of any answer."""


FAMILIES: dict[str, Markers] = {
    "think": Markers("<think>", "</think>"),  # Qwen3, DeepSeek R1, GLM, SmolLM3, MiniMax, Nemotron, Phi-4 reasoning
    "seed": Markers("<seed:think>", "</seed:think>"),  # Seed-OSS
    "magistral": Markers("[THINK]", "[/THINK]"),
    "kimi": Markers("◁think▷", "◁/think▷"),
    "command": Markers("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    "begin": Markers("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    "thinking": Markers("<thinking>", "</thinking>", anywhere=False),
    "thought": Markers("<thought>", "</thought>", anywhere=False),  # EXAONE Deep
    "reasoning": Markers("<reasoning>", "</reasoning>", anywhere=False),
    "granite": Markers("Here is my thought process:", "Here is my response:", anywhere=False),
}
SOLUTION = re.compile(
    r"(?s)\s*(?:<answer>(.*)</answer>|<\|begin_of_solution\|>(.*)<\|end_of_solution\|>"
    r"|<\|START_RESPONSE\|>(.*)<\|END_RESPONSE\|>)\s*"
)
"""What some families put around the answer after a thought."""
CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
"""Start of a message of gpt-oss (the harmony format); only the channel `final` is the answer."""
CHANNEL_END = re.compile(r"<\|(?:end|return|call|start)\|>(?:assistant)?")
BARE_CHANNEL = re.compile(r"analysis(?=[A-Z\"'(])")
"""The same where the engine dropped the special tokens: `analysisWe need …assistantfinalParis`."""
BARE_FINAL = "assistantfinal"


@dataclass(frozen=True, slots=True)
class Parted:
    """A model's text in two parts."""

    answer: str
    thought: str = ""
    unfinished: bool = False
    """Whether the text ends inside a thought: then there is no answer."""


def part(
    text: str, markers: Sequence[str] | None = None, *, family: str = "", opened_by_prompt: bool = False
) -> Parted:
    """Part a text into the thought and the answer that follows it.

    Thoughts may be nested and may come several times. A closing marker without an opening one ends a thought that the
    chat template began in the prompt. A marker just after a backtick is code, as in an answer about such markers.

    Args:
        text: what the model wrote.
        markers: a suite's own (opening, closing) instead of the families; empty if nothing is a thought.
        family: the family that the model's template names, looked for anywhere.
        opened_by_prompt: whether the template begins a thought in the prompt, so that a text without a closing marker
            is a thought that never ended.
    """
    if markers is not None:
        return _part_by(Markers(markers[0], markers[1]), text, opened_by_prompt) if markers else Parted(text)
    channels = _part_channels(text)
    if channels is not None:
        return channels
    thoughts = list[str]()
    for name, known in FAMILIES.items():
        if known.anywhere or name == family or text.lstrip().startswith(known.opening):
            opens = opened_by_prompt and name == (family or "think")
            found = _part_by(known, text, opens)
            if found.unfinished:
                return Parted("", "\n".join([*thoughts, found.thought]), unfinished=True)
            if found.thought or found.answer != text:
                thoughts.append(found.thought)
                text = found.answer
    return Parted(text, "\n".join(filter(None, thoughts)))


def family_in(template: str, special_tokens: Sequence[str] = ()) -> str:
    """Name the family whose markers a chat template or the tokenizer's added tokens have; empty if none."""
    if "<|channel|>" in template:
        return "gpt-oss"
    names = [name for name, known in FAMILIES.items() if known.closing in template or known.closing in special_tokens]
    return names[0] if names else ""


def prompt_opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought, as DeepSeek R1's and QwQ's templates let it."""
    return any(prompt.rstrip().endswith(known.opening) for known in FAMILIES.values())


def _part_by(markers: Markers, text: str, opened: bool) -> Parted:
    pattern = re.compile(rf"(?i)(?<!`)(?:({re.escape(markers.opening)})|{re.escape(markers.closing)})")
    depth, at, answer, thought = int(opened), 0, list[str](), list[str]()
    found = False
    for match in pattern.finditer(text):
        piece, found = text[at : match.start()], True
        at = match.end()
        is_opening = match[1] is not None
        if depth:
            thought.append(piece)
        else:
            answer.append(piece)
        if is_opening:
            # The template opened the thought, and the model repeats the marker.
            depth = 1 if opened and not answer and not "".join(thought).strip() else depth + 1
        elif depth:
            depth -= 1
        else:
            thought, answer = thought + answer, []
    rest = text[at:]
    if depth:
        return Parted("", "".join([*thought, rest]).strip(), unfinished=True)
    if not found:
        return Parted(text)
    kept = "".join([*answer, rest]).strip()
    solution = SOLUTION.fullmatch(kept)
    if solution:
        kept = next(group for group in solution.groups() if group is not None).strip()
    return Parted(kept, "".join(thought).strip())


def _part_channels(text: str) -> Parted | None:
    """Part a message of gpt-oss; None for any other text."""
    starts = list(CHANNEL.finditer(text))
    if starts:
        bodies: dict[str, list[str]] = {}
        for number, start in enumerate(starts):
            body = text[start.end() : starts[number + 1].start() if number + 1 < len(starts) else len(text)]
            bodies.setdefault(start[1], []).append(CHANNEL_END.split(body)[0])
        thought = "\n".join(body.strip() for name, texts in bodies.items() if name != "final" for body in texts)
        if "final" not in bodies:
            return Parted("", thought, unfinished=True)
        return Parted(bodies["final"][-1].strip(), thought)
    if "<|channel|>" in text:  # cut inside the channel's own head
        return Parted("", text, unfinished=True)
    if BARE_CHANNEL.match(text):
        thought, final, answer = text.removeprefix("analysis").rpartition(BARE_FINAL)
        return Parted(answer.strip(), thought.strip()) if final else Parted("", answer.strip(), unfinished=True)
    return None
