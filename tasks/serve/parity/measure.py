"""Send the probes to an engine, and measure the distance of each answer from the reference, in nats.

There are three gauges, by what an engine returns. Texts are never compared: two sound engines part at the first
near-tie.

- `choice`, for every engine: it generates one greedy token; the distance is how much less likely that token is than
  the likeliest one, by the reference. A near-tie that falls the other way costs next to nothing.
- `top`, for engines that return the likeliest tokens of an answer: the mean difference of the log-probabilities,
  weighted by the reference's probabilities.
- `read`, for engines that return a prompt's log-probabilities: the mean difference over the prompt's tokens.
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
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from tasks.engines import EnginePlan, engine
from tasks.serve.parity.probes import ALONE, Kind
from tasks.serve.parity.reference_job import Choice, Probe
from weighbridge.errors import EngineFailed

Gauge = Literal["choice", "top", "read"]
STOP_TOKENS = 4
"""Longest answer to a prompt that must end at once: an engine that does not know the stop token continues."""
COMPARED_CHOICES = 20
"""The reference's likeliest tokens that `top` compares; vLLM returns no more by default (`--max-logprobs`)."""
ANSWER_SECONDS = 300.0
LARGEST_NATS = 15.0
"""Largest distance of one prompt: e^-15 is never, and a text read as other tokens has no measurable difference."""
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


class Measured(BaseModel):
    """Distance of an engine from the reference at one prompt, by one gauge."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    gauge: Gauge
    name: str
    nats: float
    detail: str = Field(validation_alias=AliasChoices("detail", "told"))
    """What the engine answered, for finding the cause; older records call it `told`."""


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    ended: bool
    """True if it ended by itself."""
    top: Mapping[str, float] = field(default_factory=dict)
    """Log-probabilities of the likeliest first tokens by their text; empty if none were returned."""
    prompt: tuple[float, ...] = ()
    """Log-probabilities of the prompt's tokens from the second on."""


def measure(url: str, plan: EnginePlan, probes: Sequence[Probe], key: str = "") -> list[Measured]:
    """Send an engine every probe that its kind can answer.

    Args:
        url: the engine's address.
        plan: the engine's.
        probes: of the artifact's reference.
        key: the engine's, if it demands one.

    Raises:
        EngineFailed: a probe is answered with an error, or without what engines of its kind return.
    """
    kind_of_engine = engine(plan.engine)
    top = min(kind_of_engine.top_log_probabilities, COMPARED_CHOICES)
    asked = [probe for probe in probes if probe.question.kind != "read" or kind_of_engine.prompt_log_probabilities]
    together = [probe for probe in asked if probe.question.kind not in ALONE]
    # Neighbours of all kinds and lengths, the same ones in every run.
    random.Random(len(together)).shuffle(together)
    at_once = max(plan.concurrency, 2)
    # Engines are on this network: a proxy from the environment is not for them.
    # A kept connection that the server closes just then (llama.cpp after some requests) would look like a fault.
    limits = httpx.Limits(max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    client = httpx.Client(headers=headers, timeout=ANSWER_SECONDS, trust_env=False, limits=limits)
    with client, ThreadPoolExecutor(at_once) as pool:
        asker = _Asker(client, url, plan.model_name, top)
        distances = [asker.measure(probe) for probe in asked if probe.question.kind in ALONE]
        distances += pool.map(asker.measure, together)
    return [row for rows in distances for row in rows]


class _Asker:
    def __init__(self, client: httpx.Client, url: str, model: str, top: int) -> None:
        self._client, self._url, self._model, self._top = client, url, model, top

    def measure(self, probe: Probe) -> list[Measured]:
        """Send one probe and measure its answer."""
        try:
            return list(self._measured(probe))
        except (httpx.HTTPError, KeyError, IndexError, ValueError, TypeError) as error:
            text = error.response.text[:200] if isinstance(error, httpx.HTTPStatusError) else str(error)
            raise EngineFailed(
                f"The engine failed a prompt of {probe.tokens} tokens ({probe.question.kind}, {probe.question.name}): "
                f"{type(error).__name__}: {text}",
                "Read its log; production is untouched.",
                where=self._url,
            ) from None

    def _measured(self, probe: Probe) -> Iterator[Measured]:
        question = probe.question
        answer = self._request(probe)

        def row(gauge: Gauge, nats: float, detail: str) -> Measured:
            nats = min(nats, LARGEST_NATS)
            return Measured(kind=question.kind, gauge=gauge, name=question.name, nats=nats, detail=detail)

        first = probe.choices[0]
        if question.kind == "read":
            yield row("read", *_read(probe, answer.prompt))
            return
        if question.kind == "stop":
            nats = 0.0 if answer.ended and not answer.text.strip() else _not_ended(probe.choices)
            yield row("choice", nats, f"went on with {answer.text!r}" if nats else "ended")
            return
        yield row("choice", regret(probe.choices, answer.text), f"said {answer.text!r}, likeliest is {first.text!r}")
        # llama.cpp returns none for a token that it does not show: one that ends the answer, or half a letter.
        if self._top and (answer.top or answer.text.strip(UNREADABLE)):
            if not answer.top:
                raise ValueError("log-probabilities were requested, and none were returned")
            text, value = max(answer.top.items(), key=lambda item: item[1])
            detail = f"{text!r} at {value:.2f}, by the reference {first.text!r} at {first.log_probability:.2f}"
            yield row("top", mean_difference(probe.choices, answer.top), detail)

    def _request(self, probe: Probe) -> _Answer:
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
        # The last one belongs to the generated token.
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
    """The answer's text in either of the two APIs; reasoning is part of it."""
    if "text" in choice:
        return str(choice["text"] or "")
    message = choice.get("message") or choice.get("delta") or {}
    return "".join(str(message.get(part) or "") for part in ("reasoning_content", "reasoning", "content"))


def _top(logs: Mapping[str, Any]) -> dict[str, float]:
    """The likeliest first tokens, in the form of chats (`content`), which llama.cpp uses for all, or of completions."""
    if content := logs.get("content"):
        return {token["token"]: token["logprob"] for token in reversed(content[0]["top_logprobs"])}
    tokens = logs.get("top_logprobs")
    return dict(tokens[-1]) if tokens and tokens[-1] else {}


def regret(choices: Sequence[Choice], text: str) -> float:
    """How much less likely an engine's token is than the likeliest one, by the reference, in nats.

    Engines differ in how they show a token: some drop its leading space, none shows special tokens or half a letter.
    If several tokens look alike, the likeliest counts, in the engine's favour.
    """
    alike = [choice for choice in choices if choice.text == text]
    if not alike and not text.strip().strip(UNREADABLE):
        alike = [choice for choice in choices if choice.hidden or UNREADABLE in choice.text or not choice.text.strip()]
    alike = alike or [choice for choice in choices if choice.text.strip() == text.strip()] or [choices[-1]]
    return choices[0].log_probability - max(choice.log_probability for choice in alike)


def mean_difference(choices: Sequence[Choice], top: Mapping[str, float]) -> float:
    """Mean difference of log-probabilities over the reference's likeliest tokens, weighted by their probabilities.

    A token that an engine does not return is at most as likely to it as the least likely one that it returns.
    """
    bare = {text.strip(): value for text, value in sorted(top.items(), key=lambda item: item[1])}
    least, total, weights = min(top.values()), 0.0, 0.0
    for choice in choices[:COMPARED_CHOICES]:
        value = top.get(choice.text, bare.get(choice.text.strip()))
        if value is None:
            # Their names differ between engines: a missing one shows nothing.
            if choice.hidden or UNREADABLE in choice.text:
                continue
            value = min(least, choice.log_probability)
        weight = exp(choice.log_probability)
        total += weight * abs(choice.log_probability - value)
        weights += weight
    return total / weights if weights else LARGEST_NATS


def _read(probe: Probe, returned: Sequence[float]) -> tuple[float, str]:
    own = probe.prompt_log_probabilities
    if len(returned) != len(own):
        return LARGEST_NATS, f"read {len(returned) + 1} tokens where the artifact's tokenizer makes {len(own) + 1}"
    differences = [abs(reference - engine) for reference, engine in zip(own, returned)]
    worst = max(range(len(differences)), key=differences.__getitem__)
    detail = f"token {worst + 2} at {returned[worst]:.2f} nats, by the reference at {own[worst]:.2f}"
    return sum(differences) / len(differences), detail


def _not_ended(choices: Sequence[Choice]) -> float:
    """Distance of an answer that continues where the reference's likeliest token ends it."""
    other = next((choice for choice in choices if not choice.hidden), choices[-1])
    return choices[0].log_probability - other.log_probability
