"""Ask an engine the probes, and say how far each answer lies from the reference, in nats.

Three gauges, by what an engine tells. Never text against text: two sound engines part at the first near-tie.

- `choice`, of every engine: it is asked for one greedy token, and pays how much less likely than the likeliest token
  the reference holds it. A near-tie that falls the other way costs next to nothing.
- `top`, where it tells the likeliest tokens of what it generates: the mean difference of the log-probabilities,
  weighted by the reference's probabilities.
- `read`, where it tells a prompt's own: the mean difference over the prompt's tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import exp
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict

from tasks.engines import EnginePlan, engine
from tasks.serve.parity.probes import ALONE, Kind
from tasks.serve.parity.reference_job import Choice, Probe
from weighbridge.errors import EngineFailed

Gauge = Literal["choice", "top", "read"]
STOP_TOKENS = 4
"""Of an answer that must end at once: an engine that does not know the stop token goes on."""
COMPARED_CHOICES = 20
"""The reference's likeliest tokens that `top` compares; vLLM tells no more by default (`--max-logprobs`)."""
ANSWER_SECONDS = 300.0
LARGEST_NATS = 15.0
"""Of one prompt: e^-15 is never, and a text that is read as other tokens has no difference to measure."""
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


class Measured(BaseModel):
    """How far an engine lies from the reference at one prompt, by one gauge."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    gauge: Gauge
    name: str
    nats: float
    told: str
    """What the engine did, for whoever must find out why."""


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    ended: bool
    """Whether it ended by itself."""
    top: Mapping[str, float] = field(default_factory=dict)
    """Log-probabilities of the likeliest first tokens by their text; empty where none were told."""
    prompt: tuple[float, ...] = ()
    """Log-probabilities of the prompt's tokens from the second on."""


def measure(url: str, plan: EnginePlan, probes: Sequence[Probe]) -> list[Measured]:
    """Ask an engine every probe that it can be asked.

    Args:
        url: the engine's address.
        plan: what it was told to serve.
        probes: of the artifact's reference.

    Raises:
        EngineFailed: it answers one with an error, or does not tell what engines of its kind tell.
    """
    kind_of_engine = engine(plan.engine)
    top = min(kind_of_engine.top_log_probabilities, COMPARED_CHOICES)
    asked = [one for one in probes if one.question.kind != "read" or kind_of_engine.prompt_log_probabilities]
    together = [one for one in asked if one.question.kind not in ALONE]
    # Neighbours of all kinds and lengths, the same ones in every run.
    random.Random(len(together)).shuffle(together)
    at_once = max(plan.concurrency, 2)
    # Engines are on this network: a proxy from the environment has no business between.
    # A kept connection that the server closes just then (llama.cpp after some requests) would look like a fault.
    limits = httpx.Limits(max_keepalive_connections=0)
    client = httpx.Client(timeout=ANSWER_SECONDS, trust_env=False, limits=limits)
    with client, ThreadPoolExecutor(at_once) as pool:
        asker = _Asker(client, url, plan.model_name, top)
        found = [asker.measure(one) for one in asked if one.question.kind in ALONE]
        found += pool.map(asker.measure, together)
    return [one for several in found for one in several]


class _Asker:
    def __init__(self, client: httpx.Client, url: str, model: str, top: int) -> None:
        self._client, self._url, self._model, self._top = client, url, model, top

    def measure(self, probe: Probe) -> list[Measured]:
        """Ask one probe."""
        try:
            return list(self._measured(probe))
        except (httpx.HTTPError, KeyError, IndexError, ValueError, TypeError) as error:
            said = error.response.text[:200] if isinstance(error, httpx.HTTPStatusError) else str(error)
            raise EngineFailed(
                f"The engine failed a prompt of {probe.tokens} tokens ({probe.question.kind}, {probe.question.name}): "
                f"{type(error).__name__}: {said}",
                "Read its log; production is untouched.",
                where=self._url,
            ) from None

    def _measured(self, probe: Probe) -> Iterator[Measured]:
        question = probe.question
        answer = self._ask(probe)

        def found(gauge: Gauge, nats: float, told: str) -> Measured:
            nats = min(nats, LARGEST_NATS)
            return Measured(kind=question.kind, gauge=gauge, name=question.name, nats=nats, told=told)

        first = probe.choices[0]
        if question.kind == "read":
            yield found("read", *_read(probe, answer.prompt))
            return
        if question.kind == "stop":
            nats = 0.0 if answer.ended and not answer.text.strip() else _not_ended(probe.choices)
            yield found("choice", nats, f"went on with {answer.text!r}" if nats else "ended")
            return
        yield found("choice", regret(probe.choices, answer.text), f"said {answer.text!r}, likeliest is {first.text!r}")
        # llama.cpp tells none of a token that it does not show: one that ends the answer, or half a letter.
        if self._top and (answer.top or answer.text.strip(UNREADABLE)):
            if not answer.top:
                raise ValueError("log-probabilities were asked for, and none came")
            text, value = max(answer.top.items(), key=lambda one: one[1])
            told = f"{text!r} at {value:.2f}, by the reference {first.text!r} at {first.log_probability:.2f}"
            yield found("top", apart(probe.choices, answer.top), told)

    def _ask(self, probe: Probe) -> _Answer:
        question, chat = probe.question, bool(probe.question.messages)
        body: dict[str, Any] = {"model": self._model, "temperature": 0, "max_tokens": 1}
        if chat:
            body["messages"] = [turn.model_dump() for turn in question.messages]
        else:
            body["prompt"] = question.text
        if question.kind == "stop":
            body["max_tokens"] = STOP_TOKENS
        elif question.kind == "read":
            body |= {"echo": True, "logprobs": 1}
        elif self._top:
            body |= {"logprobs": True, "top_logprobs": self._top} if chat else {"logprobs": self._top}
        url = f"{self._url}/v1/{'chat/completions' if chat else 'completions'}"
        if question.kind == "streamed":
            return self._streamed(url, body)
        response = self._client.post(url, json=body).raise_for_status()
        choice = response.json()["choices"][0]
        logs = choice.get("logprobs") or {}
        # The last is of the token that was generated.
        prompt = tuple(logs["token_logprobs"][1:-1]) if question.kind == "read" else ()
        return _Answer(_text(choice), choice.get("finish_reason") == "stop", _top(logs), prompt)

    def _streamed(self, url: str, body: Mapping[str, Any]) -> _Answer:
        text, ended, top = "", False, dict[str, float]()
        with self._client.stream("POST", url, json={**body, "stream": True}) as response:
            if response.is_error:
                response.read()
            response.raise_for_status()
            for line in response.iter_lines():
                if not line.startswith("data:") or line.endswith("[DONE]"):
                    continue
                for choice in json.loads(line.removeprefix("data:")).get("choices", []):
                    text += _text(choice)
                    ended = ended or choice.get("finish_reason") == "stop"
                    top = top or _top(choice.get("logprobs") or {})
        return _Answer(text, ended, top)


def _text(choice: Mapping[str, Any]) -> str:
    """What was said, in whichever of the two APIs; thoughts are answers too."""
    if "text" in choice:
        return str(choice["text"] or "")
    said = choice.get("message") or choice.get("delta") or {}
    return "".join(str(said.get(part) or "") for part in ("reasoning_content", "reasoning", "content"))


def _top(logs: Mapping[str, Any]) -> dict[str, float]:
    """The likeliest first tokens, in the form of chats (`content`), which llama.cpp uses for all, or of completions."""
    if content := logs.get("content"):
        return {one["token"]: one["logprob"] for one in reversed(content[0]["top_logprobs"])}
    told = logs.get("top_logprobs")
    return dict(told[-1]) if told and told[-1] else {}


def regret(choices: Sequence[Choice], said: str) -> float:
    """By how many nats the reference holds the token that an engine chose less likely than its own first choice.

    Engines differ in how they show a token: some drop its leading space, none shows special tokens or half a letter.
    Where several tokens look alike, the likeliest counts: the doubt is the engine's.
    """
    alike = [one for one in choices if one.text == said]
    if not alike and not said.strip().strip(UNREADABLE):
        alike = [one for one in choices if one.hidden or UNREADABLE in one.text or not one.text.strip()]
    alike = alike or [one for one in choices if one.text.strip() == said.strip()] or [choices[-1]]
    return choices[0].log_probability - max(one.log_probability for one in alike)


def apart(choices: Sequence[Choice], told: Mapping[str, float]) -> float:
    """Mean difference of log-probabilities over the reference's likeliest tokens, weighted by their probabilities.

    A token that an engine does not tell is at most as likely to it as the least likely one that it tells.
    """
    bare = {text.strip(): value for text, value in sorted(told.items(), key=lambda one: one[1])}
    least, total, weights = min(told.values()), 0.0, 0.0
    for one in choices[:COMPARED_CHOICES]:
        value = told.get(one.text, bare.get(one.text.strip()))
        if value is None:
            # Names of these differ between engines: nothing follows from not finding one.
            if one.hidden or UNREADABLE in one.text:
                continue
            value = min(least, one.log_probability)
        weight = exp(one.log_probability)
        total += weight * abs(one.log_probability - value)
        weights += weight
    return total / weights if weights else LARGEST_NATS


def _read(probe: Probe, told: Sequence[float]) -> tuple[float, str]:
    own = probe.prompt_log_probabilities
    if len(told) != len(own):
        return LARGEST_NATS, f"read {len(told) + 1} tokens where the artifact's tokenizer makes {len(own) + 1}"
    apart = [abs(ours - theirs) for ours, theirs in zip(own, told)]
    worst = max(range(len(apart)), key=apart.__getitem__)
    return sum(apart) / len(apart), f"token {worst + 2} at {told[worst]:.2f} nats, by the reference at {own[worst]:.2f}"


def _not_ended(choices: Sequence[Choice]) -> float:
    """What going on costs where the reference's first choice is to end."""
    other = next((one for one in choices if not one.hidden), choices[-1])
    return choices[0].log_probability - other.log_probability
