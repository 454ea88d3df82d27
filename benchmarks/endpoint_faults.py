"""Faults of an endpoint and what the verdict says: the table of docs/evidence/endpoint-faults.md.

Run `python -m benchmarks.endpoint_faults > docs/evidence/endpoint-faults.md` (a minute). Each row starts two endpoints
in this process, one of them or both with the fault, and compares them on 150 questions with `compare`'s own code.
Production answers nine questions of ten; the margin is 0.1 at 0.95.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.answering import Answering, Says

ITEMS, MARGIN = 150, 0.1
Fault = Callable[[int, str], str | dict[str, Any]]
"""From the question's number and the right text to the answer, or a whole choice."""


def choice(content: object, finish: str | None = "stop", **more: object) -> dict[str, Any]:
    """A choice of a chat completion."""
    return {"message": {"role": "assistant", "content": content, **more}, "finish_reason": finish}


def share(part: int, fault: Fault) -> Fault:
    """The fault on the first `part` of every hundred questions, spread over the file."""
    return lambda n, text: fault(n, text) if n * 37 % 100 < part else text


FAULTS: dict[str, Fault] = {
    "none": lambda n, text: text,
    "thinks `<think>` of the right answer and says another": lambda n, t: f"<think>maybe {t}</think>banana {n}",
    "the same in `reasoning_content`": lambda n, t: choice(f"banana {n}", reasoning_content=t),
    "the same in `reasoning` beside `reasoning_content`": lambda n, t: choice(
        f"banana {n}", reasoning=t, reasoning_content=t
    ),
    "the same in gpt-oss channels": lambda n, t: (
        f"<|channel|>analysis<|message|>{t}<|end|><|start|>assistant<|channel|>final<|message|>banana {n}"
    ),
    "the same, template opened the thought": lambda n, t: f"maybe {t}</think>banana {n}",
    "the same, `[THINK]`": lambda n, t: f"[THINK]{t}[/THINK]banana {n}",
    "the same, nested": lambda n, t: f"<think>a<think>{t}</think>{t}</think>banana {n}",
    "the same, parts of a list": lambda n, t: choice(
        [{"type": "thinking", "thinking": t}, {"type": "text", "text": f"banana {n}"}]
    ),
    "thinks, then answers right": lambda n, t: f"<think>hm {n}</think>{t}",
    "every answer cut inside the thought": lambda n, t: choice(f"<think>maybe {t}", "length"),
    "the thought never ends, and `stop`": lambda n, t: f"<think>maybe {t}",
    "5 % end inside the thought": share(5, lambda n, t: f"<think>maybe {t}"),
    "an empty answer after the thought": lambda n, t: f"<think>{t}</think>",
    "content null, thought apart, `length`": lambda n, t: choice(None, "length", reasoning_content=t),
    "a tool call inside the thought": lambda n, t: f'<think><tool_call>{{"a": "{t}"}}</tool_call></think>banana {n}',
    "cut, no usage": lambda n, t: choice(t, "length"),
    "cut, `max_tokens` for a reason": lambda n, t: choice(t, "max_tokens"),
    "no finish reason, no usage": lambda n, t: choice(t, None),
    "an error as finish reason": lambda n, t: choice(t, "error"),
    "5 % cut": share(5, lambda n, t: choice(t, "length")),
    "1 % errors": share(1, lambda n, t: choice(t, "error")),
    "5 % errors": share(5, lambda n, t: choice(t, "error")),
    "always the same greeting": lambda n, t: "Hello! How can I help you today?",
    "always the same `yes`": lambda n, t: "yes",
    "refuses everything": lambda n, t: f"I'm sorry, but I can't help with request {n}.",
    "empty answers": lambda n, t: "",
    "answers another question": lambda n, t: f"The answer is word{n + 1}.",
}


def says(fault: Fault) -> Says:
    """An endpoint's answers: right nine times in ten, then the fault."""

    def answer(question: str) -> str | dict[str, Any]:
        number = int(question.split()[-1])
        wrong = number % 10 == 9
        return fault(number, f"The answer is word{number}{'x' if wrong else ''}.")

    return answer


def verdict_of(candidate: Fault, production: Fault, folder: Path) -> tuple[str, str]:
    """Outcome and reason of one comparison.

    Args:
        candidate: its fault.
        production: its fault.
        folder: an empty folder, which takes the suite and the scores.
    """
    from tasks.evaluate.compare import compare
    from tasks.evaluate.compare_inputs import resolve_model
    from tasks.evaluate.comparison import Options
    from tasks.evaluate.suites.suite import suite_at
    from weighbridge.settings import load_settings

    rows = [
        {
            "id": f"q{n}",
            "messages": [{"role": "user", "content": f"Say number {n}"}],
            "assert": [{"type": "regex", "value": rf"word{n}\b"}],
            "max_tokens": 64,
        }
        for n in range(ITEMS)
    ]
    path = folder / "faults.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.environ["WEIGHBRIDGE_HOME"] = str(folder / "home")
    settings = load_settings()
    with Answering(says(candidate)) as one, Answering(says(production)) as other:
        options = Options(margin=MARGIN, retry_seconds=1, concurrency=1)
        new, old = (resolve_model(endpoint.url, settings) for endpoint in (one, other))
        result = compare(new, old, [suite_at("regression/faults", path)], options, _Silent(), settings)
    (suite,) = result.verdict.suites
    return suite.outcome, suite.reason


class _Silent:
    """A listener that hears nothing."""

    def progress(self, *_: object) -> None:
        """Ignored."""

    def running(self, *_: object) -> None:
        """Ignored."""

    def say(self, *_: object) -> None:
        """Ignored."""


def main() -> None:
    """Print the page."""
    print("# Faults of an endpoint and what the verdict says\n")
    print("Two endpoints, 150 questions, production right nine times in ten, margin 0.1 at 0.95. Printed by `python -m")
    print("benchmarks.endpoint_faults`, which compares them with `compare`'s own code.\n")
    print("| fault | of whom | verdict | reason |\n| --- | --- | --- | --- |")
    for name, fault in FAULTS.items():
        for whom, production in (("the candidate", FAULTS["none"]), ("both", fault)):
            with tempfile.TemporaryDirectory() as folder:
                outcome, reason = verdict_of(fault, production, Path(folder))
            shown = reason.split(" [http")[0].split(": not an OpenAI")[0][:240].replace("|", "/")
            print(f"| {name} | {whom} | `{outcome}` | {shown} |".replace("<", "&lt;"), flush=True)


if __name__ == "__main__":
    main()
