"""The process that computes a reference: `python -m tasks.serve.parity.reference_child JOB.json`.

It is separate for the reasons of `drift/distributions_child.py`, with which it shares the loading of models. If the
GPU's memory is full, because an engine serves on it, the model runs on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from tasks.evaluate.drift.distributions_child import load_model, load_tokenizer, logits_of
from tasks.serve.parity.probes import CHATS, ENDED, Question, longest_prompt, questions
from tasks.serve.parity.reference_job import Choice, Job, JobResult, Probe
from tasks.source.chat_templates import Renderer, TemplateRefuses
from weighbridge.processor import has_fast_bf16

KEPT_CHOICES = 64
"""Likeliest tokens kept of each prompt. Any other counts as likely as the last one, so a fault is never overstated."""
DATED = "strftime_now"
"""The function by which chat templates tell the model today's date (transformers, chat templates)."""


class ReferenceModel:
    """A model that predicts the tokens after prompts."""

    def __init__(self, job: Job) -> None:
        self.tokenizer = load_tokenizer(job.folder)
        self.model = _load(job)
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        self._hidden = {id for token, id in self.tokenizer.get_vocab().items() if token in added}

    def probes(self, asked: Sequence[tuple[Question, list[int]]]) -> list[Probe]:
        """Predict after all prompts; a prompt that begins a longer one shares its forward pass."""
        probes: dict[int, Probe] = {}
        left = sorted(range(len(asked)), key=lambda number: -len(asked[number][1]))
        while left:
            longest = asked[left[0]][1]
            # Pages are cut at several places near their end, and texts are read as a whole.
            sharing = [number for number in left if longest[: len(asked[number][1])] == asked[number][1]]
            first = min(2 if asked[number][0].kind == "read" else len(asked[number][1]) + 1 for number in sharing)
            logits = logits_of(self.model, [*longest, 0], len(longest) + 2 - first).double()
            for number in sharing:
                question, ids = asked[number]
                probes[number] = self._probe(question, ids, logits[: len(ids) + 2 - first].log_softmax(-1))
            left = [number for number in left if number not in sharing]
        return [probes[number] for number in range(len(asked))]

    def _probe(self, question: Question, ids: list[int], logs: Any) -> Probe:
        """Make a probe from log-probabilities: the last row follows the prompt, the others are of its own tokens."""
        top = logs[-1].topk(min(KEPT_CHOICES, logs.shape[-1]))
        choices = tuple(
            Choice(text=self.tokenizer.decode([id]), log_probability=round(value, 5), hidden=id in self._hidden)
            for id, value in zip(top.indices.tolist(), top.values.tolist())
        )
        own: tuple[float, ...] = ()
        if question.kind == "read":
            rows = logs[-len(ids) : -1]
            own = tuple(round(float(row[id]), 5) for row, id in zip(rows, ids[1:], strict=True))
        return Probe(question=question, tokens=len(ids), choices=choices, prompt_log_probabilities=own)


def run(job: Job) -> JobResult:
    """Make every prompt that this artifact can be given, and predict after it."""
    model = ReferenceModel(job)
    tokenizer = model.tokenizer
    longest = longest_prompt(job.context, getattr(model.model.config, "max_position_embeddings", None))
    written = questions(job.documents, longest, lambda text: len(tokenizer(text)["input_ids"]))
    asked = [(prompt, list(tokenizer(prompt.text)["input_ids"])) for prompt in written]
    chats, left_out = _chats(tokenizer)
    asked += [chat for chat in chats if len(chat[1]) <= longest]
    probes = model.probes(asked)
    stops = _stop_texts(model)
    # An engine has to end an answer only if the reference ends it.
    kept = [probe for probe in probes if probe.question.kind != "stop" or probe.choices[0].text in stops]
    if not any(probe.question.kind == "stop" for probe in kept):
        left_out.append("No answer that must end was found: the stop token is not checked.")
    return JobResult(probes=tuple(kept), left_out=tuple(left_out))


def _load(job: Job) -> Any:
    import torch

    try:
        return load_model(job.folder, job.device, job.dtype)
    except torch.OutOfMemoryError:
        print("The GPU's memory is full: the model runs on the CPU.", file=sys.stderr)
        return load_model(job.folder, "cpu", "auto" if has_fast_bf16() else "float32")


def _chats(tokenizer: Any) -> tuple[list[tuple[Question, list[int]]], list[str]]:
    """Conversations in the artifact's own chat template, and sentences on what is left out."""
    with Renderer() as renderer:
        return _chats_by(tokenizer, renderer)


def _chats_by(tokenizer: Any, renderer: Renderer) -> tuple[list[tuple[Question, list[int]]], list[str]]:
    template = tokenizer.chat_template
    if not template:
        return [], ["The artifact has no chat template: conversations are not compared."]
    dated = DATED in str(template)
    left_out = ["The chat template tells today's date: conversations are not compared."] if dated else []
    found = []
    for number, turns in enumerate(() if dated else CHATS):
        ids = _written(tokenizer, renderer, turns, tokenize=True, add_generation_prompt=True)
        if ids is not None:
            found.append((Question(kind="chat", name=f"chat {number}", messages=turns), list(ids["input_ids"])))
    for number, turns in enumerate(ENDED):
        text = _written(tokenizer, renderer, turns, tokenize=False, continue_final_message=True)
        if text is not None:
            # Sent as plain text, to which every tokenizer adds its own beginning.
            text = text.removeprefix(tokenizer.bos_token or "")
            found.append((Question(kind="stop", name=f"ended {number}", text=text), tokenizer(text)["input_ids"]))
    return found, left_out


def _written(tokenizer: Any, renderer: Renderer, turns: Sequence[Any], **how: Any) -> Any:
    """A conversation in the chat template; None if the template refuses it, as some do with a system message.

    Raises:
        ModelUnreadable: the template has no end.
    """
    messages = [turn.model_dump() for turn in turns]
    try:
        # Within limits first. What ends there ends here too, where transformers knows how to continue an answer.
        renderer.render(tokenizer, messages, add_generation_prompt=bool(how.get("add_generation_prompt")))
        return tokenizer.apply_chat_template(messages, **how)
    except (TemplateRefuses, TemplateError, ValueError):
        return None


def _stop_texts(model: ReferenceModel) -> set[str]:
    """Tokens that end an answer, by the artifact's generation settings."""
    named = model.model.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [] if named is None else [named]
    return {model.tokenizer.decode([id]) for id in ids}


def main(path: Path) -> int:
    """Do the job of a file."""
    job = Job.model_validate_json(path.read_bytes())
    job.write(run(job))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
