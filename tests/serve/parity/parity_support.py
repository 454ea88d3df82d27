"""An engine that answers from recorded distributions, over real HTTP, and can be wrong in the ways engines are."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import exp, log
from typing import Any

from tasks.engines import EnginePlan
from tasks.evaluate.drift.held_out import Turn
from tasks.serve.parity.probes import Question
from tasks.serve.parity.reference_job import Choice, Probe

WORDS = [f" word{number}" for number in range(40)]
END = "<|end|>"
KINDS = {"short": 12, "neighbours": 24, "streamed": 8, "chat": 10, "long": 4, "stop": 4, "read": 4}
Change = Callable[[Probe], Probe]


def distribution(numbers: random.Random, first: str | None = None) -> tuple[Choice, ...]:
    """Forty words with weights that fall as those of language do; `first` before them all."""
    logits = sorted((numbers.gauss(0, 2.5) for _ in WORDS), reverse=True)
    words = numbers.sample(WORDS, len(WORDS))
    if first is not None:
        words, logits = [first, *words], [logits[0] + 1.5, *logits]
    total = log(sum(map(exp, logits)))
    return tuple(
        Choice(text=word, log_probability=logit - total, hidden=word == END) for word, logit in zip(words, logits)
    )


def make_probes(seed: int = 1) -> tuple[Probe, ...]:
    """Some of each kind."""
    numbers, found = random.Random(seed), []
    for kind, count in KINDS.items():
        for number in range(count):
            name = f"{kind} {number}"
            turns = (Turn(role="user", content=name),) if kind == "chat" else ()
            question = Question(kind=kind, name=name, text="" if turns else name, messages=turns)
            own = tuple(-numbers.expovariate(0.5) for _ in range(30)) if kind == "read" else ()
            choices = distribution(numbers, END if kind == "stop" else None)
            found.append(Probe(question=question, tokens=30, choices=choices, prompt_log_probabilities=own))
    return tuple(found)


def with_noise(nats: float, seed: int = 0, kind: str | None = None) -> Change:
    """An engine whose log-probabilities are off by so much, everywhere or in one kind of prompt."""

    def change(probe: Probe) -> Probe:
        if kind not in (None, probe.question.kind):
            return probe
        numbers = random.Random(f"{seed} {probe.question.name}")
        moved = [
            choice.model_copy(update={"log_probability": choice.log_probability + numbers.gauss(0, nats)})
            for choice in probe.choices
        ]
        own = tuple(value + numbers.gauss(0, nats) for value in probe.prompt_log_probabilities)
        moved.sort(key=lambda choice: -choice.log_probability)
        return probe.model_copy(update={"choices": tuple(moved), "prompt_log_probabilities": own})

    return change


def other_words(probe: Probe) -> Probe:
    """What a wrong tokenizer or template makes of a prompt: the distribution of another one."""
    numbers = random.Random(f"other {probe.question.name}")
    return probe.model_copy(update={"choices": distribution(numbers)})


def plan(engine: str = "transformers") -> EnginePlan:
    return EnginePlan(engine=engine, engine_version="1", model_name="toy", context=64, concurrency=4)


@contextmanager
def answering(
    probes: tuple[Probe, ...],
    change: Change = lambda probe: probe,
    *,
    knows_the_end: bool = True,
    tokens_added: int = 0,
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The engine's address, and the requests that it has had."""
    by_text = {probe.question.text or probe.question.messages[0].content: change(probe) for probe in probes}
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body)
            probe = by_text[body["prompt"] if "prompt" in body else body["messages"][0]["content"]]
            choice = self._choice(probe, body)
            kind = "text/event-stream" if body.get("stream") else "application/json"
            data = json.dumps({"choices": [choice]})
            data = f"data: {data}\n\ndata: [DONE]\n\n" if body.get("stream") else data
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data.encode())))
            self.end_headers()
            self.wfile.write(data.encode())

        def _choice(self, probe: Probe, body: dict[str, Any]) -> dict[str, Any]:
            first = probe.choices[0]
            said, reason = ("" if first.hidden else first.text), "length"
            if first.text == END and knows_the_end:
                reason = "stop"
            elif body["max_tokens"] > 1:
                said += " and so on"
            top = {choice.text: choice.log_probability for choice in probe.choices[: body.get("top_logprobs", 20)]}
            if "messages" in body:
                content = [{"top_logprobs": [{"token": text, "logprob": value} for text, value in top.items()]}]
                logs = {"logprobs": {"content": content}} if body.get("logprobs") else {}
                return {"message": {"content": said}, "finish_reason": reason, **logs}
            logprobs = {"top_logprobs": [top], "token_logprobs": [first.log_probability]}
            if body.get("echo"):
                own = [*probe.prompt_log_probabilities, *[-1.0] * tokens_added]
                logprobs = {"token_logprobs": [None, *own, -1.0], "top_logprobs": [None, *[{}] * len(own), top]}
            return {"text": said, "finish_reason": reason, "logprobs": logprobs if body.get("logprobs") else None}

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
