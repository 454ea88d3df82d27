"""What the gateway's reading of answers for faults costs: Envoy's CPU time with and without that filter.

Run `python -m benchmarks.answer_faults`. A stand-in engine sends a stream of 1000 events in large pieces, where only
the text differs (`plain`) or where another field differs too (`varied`), and a whole answer of 10,000 words (`whole`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import psutil

from tasks.serve.gateway import filters, mirrors
from tasks.serve.gateway.discovery import ANSWER_FILTER
from tests.serve.gateway.gateway_support import FakeEngine, Running, make_gateway

EVENTS, WORDS = 1000, 10_000


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=100)
    answers = parser.parse_args().answers
    read = _measure(answers)
    usual = filters.answer_filters

    def without() -> list[dict[str, object]]:
        return [entry for entry in usual() if entry["name"] != ANSWER_FILTER]

    for module in (filters, mirrors):
        vars(module)["answer_filters"] = without
    unread = _measure(answers)
    print("| answer | CPU ms without | with | µs an event |\n| --- | --- | --- | --- |")
    for name, seconds in read.items():
        each = f"{(seconds - unread[name]) / EVENTS * 1e6:.1f}" if name != "whole" else "–"
        print(f"| {name} | {unread[name] * 1e3:.1f} | {seconds * 1e3:.1f} | {each} |")


def _measure(answers: int) -> dict[str, float]:
    """CPU seconds of Envoy for an answer of each kind."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        running, engine = Running(make_gateway(Path(folder))), FakeEngine()
        try:
            running.start()
            running.gateway.set_line("line", [engine.backend("1", 100)])
            process = psutil.Process(running.process.pid if running.process else 0)
            for name in ("plain", "varied", "whole"):
                engine.stream_bytes, engine.answer_bytes = _stream(name == "varied"), _whole()
                body = {"model": "line", "stream": name != "whole"}
                for warm in (True, False):
                    began = sum(process.cpu_times()[:2])
                    for _ in range(5 if warm else answers):
                        running.request("/v1/chat/completions", body).raise_for_status()
                    found[name] = (sum(process.cpu_times()[:2]) - began) / answers
        finally:
            running.stop()
            engine.stop()
    return found


def _stream(varied: bool) -> bytes:
    def event(number: int, text: str, reason: str | None = None) -> str:
        head = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1764565000 + number}
        choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": reason}
        return f"data: {json.dumps({**head, 'model': 'line', 'choices': [choice]})}\n\n"

    events = [event(number if varied else 0, " word") for number in range(EVENTS)]
    return ("".join(events) + event(0, "", "stop") + "data: [DONE]\n\n").encode()


def _whole() -> bytes:
    message = {"role": "assistant", "content": "word, " * WORDS}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


if __name__ == "__main__":
    main()
