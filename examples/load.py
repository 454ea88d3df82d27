"""Streaming clients that send one request after the other, and record the outcome of each.

Run `python -m examples.load URL --seconds 30`. It does *not* measure an engine's limits: each client waits for one
answer before it sends the next request.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

PROMPTS = (
    "Write two sentences about the sea.",
    "What is the capital of France?",
    "Name three fruits.",
    "Explain what a bridge is for.",
    "Tell me about the moon in one sentence.",
)
VERSION_HEADER = "x-weighbridge-version"
REFUSED_SECONDS = 0.5


@dataclass(frozen=True)
class Answer:
    """One request as its client saw it; `started` is a time of `time.time()`."""

    started: float
    first_token_seconds: float
    seconds: float
    version: str
    problem: str
    """Empty if the answer was complete."""


@dataclass
class Load:
    """Clients that stream chat completions until the context ends.

    Args:
        url: base address with `/v1`.
        key: API key of the gateway.
        model: the line.
        clients: number of concurrent requests.
        max_tokens: longest answer.
        pause_seconds: between an answer and the client's next request.
    """

    url: str
    key: str
    model: str
    clients: int = 8
    max_tokens: int = 24
    pause_seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        for number in range(self.clients):
            thread = threading.Thread(target=self._client, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=180)

    @property
    def failed(self) -> list[Answer]:
        """Requests without a complete answer."""
        return [answer for answer in self.answers if answer.problem]

    @property
    def by_version(self) -> dict[str, int]:
        """Number of complete answers by version."""
        return dict(Counter(answer.version for answer in self.answers if not answer.problem))

    def last_start(self, version: str, since: float) -> float | None:
        """Time of the last request sent since a moment that this version answered; None if there was none."""
        return max(
            (answer.started for answer in self.answers if answer.version == version and answer.started >= since),
            default=None,
        )

    def _client(self, number: int) -> None:
        with httpx.Client(timeout=httpx.Timeout(180, connect=10)) as client:
            for turn in itertools.count():
                if self._stop.is_set():
                    return
                answer = self._request(client, PROMPTS[(number + turn) % len(PROMPTS)])
                self.answers.append(answer)
                # A refused connection answers at once; do not spin on it.
                self._stop.wait(max(self.pause_seconds, REFUSED_SECONDS) if answer.problem else self.pause_seconds)

    def _request(self, client: httpx.Client, prompt: str) -> Answer:
        started, clock = time.time(), time.monotonic()
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
        }
        version, first, text, finished = "", 0.0, "", False
        problem = ""
        try:
            with client.stream(
                "POST", f"{self.url}/chat/completions", json=body, headers={"Authorization": f"Bearer {self.key}"}
            ) as response:
                version = response.headers.get(VERSION_HEADER, "")
                if response.status_code != 200:
                    problem = f"status {response.status_code}: {response.read().decode(errors='replace')[:200]}"
                for line in response.iter_lines() if not problem else ():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    chunk = json.loads(line.removeprefix("data: "))
                    if "error" in chunk:
                        problem = f"error in the stream: {chunk['error']}"
                        break
                    choice = chunk["choices"][0] if chunk.get("choices") else {}
                    content = (choice.get("delta") or {}).get("content") or ""
                    first = first or (time.monotonic() - clock if content else 0.0)
                    text += content
                    finished = finished or choice.get("finish_reason") is not None
        except (httpx.HTTPError, json.JSONDecodeError, KeyError) as error:
            problem = f"{type(error).__name__}: {error}"
        if not problem and not finished:
            problem = f"the stream was cut after {len(text)} characters"
        if not problem and not text.strip():
            problem = "an empty answer"
        return Answer(started, first, time.monotonic() - clock, version, problem)


def main() -> None:
    """Run the clients from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="base address with /v1")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--key-file", type=Path, required=True, help="the gateway's default.key")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30)
    arguments = parser.parse_args()
    key = arguments.key_file.read_text().strip()
    with Load(arguments.url, key, arguments.model, arguments.clients) as load:
        time.sleep(arguments.seconds)
    print(f"{len(load.answers)} requests, {len(load.failed)} failed, answered by version: {load.by_version}")
    for answer in load.failed[:5]:
        print(answer.problem)
    raise SystemExit(1 if load.failed else 0)


if __name__ == "__main__":
    main()
