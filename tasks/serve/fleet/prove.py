"""Real requests before traffic: a successful health check proves nothing.

The first request also triggers the engine's lazy initialization (memory pools, kernels): 8 to 40 s with
`transformers serve`, which no user should wait for. Quality is not tested here: a release's verdict covers it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tasks.engines import EnginePlan
from tasks.evaluate.drift.degenerate import degenerate
from tasks.evaluate.scoring.endpoint import make_client
from weighbridge.errors import EngineFailed

FIRST_ANSWER_SECONDS = 300.0
PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How many days has a week?",
    "Name a fruit that is yellow.",
)


def prove(url: str, plan: EnginePlan, report: Callable[[str], None], key: str = "") -> None:
    """Send an engine one request, then several at once, and check the answers for signs of a broken model.

    Args:
        url: the engine's address.
        plan: the engine's.
        report: called with a sentence when it is proven.
        key: the engine's, if it demands one.

    Raises:
        EngineFailed: an error, an empty answer, leaked special tokens, or one token repeated.
    """
    first = _answer(url, plan, PROMPTS[0], key)
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = [first, *pool.map(lambda prompt: _answer(url, plan, prompt, key), PROMPTS)]
    for answer in answers:
        if problem := degenerate(answer):
            raise EngineFailed(
                f"The engine is healthy and answers garbage: {problem}: {answer[:120]!r}.",
                "Look at the artifact's tokenizer and chat template, and at the engine's log; production is untouched.",
                where=url,
            )
    report(f"{url} is warm: {first.strip()[:60]!r}")


def _answer(url: str, plan: EnginePlan, prompt: str, key: str) -> str:
    body = {
        "model": plan.model_name,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 16,
        "temperature": 0,
    }
    try:
        with make_client(key or None, FIRST_ANSWER_SECONDS) as client:
            response = client.post(f"{url}/v1/chat/completions", json=body)
        response.raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"] or "")
    except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
        raise EngineFailed(
            f"The engine failed its first real request: {type(error).__name__}: {error}.",
            "Read its log; production is untouched.",
            where=url,
        ) from None
