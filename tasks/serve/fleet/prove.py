"""Real requests before traffic: a healthy /health proves nothing.

The first request also pays for what an engine does lazily (memory pools, kernels): 8 to 40 s with
`transformers serve`, which no user is to wait for. What this does not show is quality: that is weighed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tasks.engines import EnginePlan
from tasks.evaluate.drift.degenerate import degenerate
from weighbridge.errors import EngineFailed

FIRST_ANSWER_SECONDS = 300.0
PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How many days has a week?",
    "Name a fruit that is yellow.",
)


def prove(url: str, plan: EnginePlan, tell: Callable[[str], None]) -> None:
    """Ask an engine, first alone and then several at once, and look at what it says.

    Args:
        url: the engine's address.
        plan: what it was told to serve.
        tell: called with a sentence when it is proven.

    Raises:
        EngineFailed: an error, an empty answer, leaked special tokens or one token for ever.
    """
    first = _answer(url, plan, PROMPTS[0])
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = [first, *pool.map(lambda prompt: _answer(url, plan, prompt), PROMPTS)]
    for answer in answers:
        if problem := degenerate(answer):
            raise EngineFailed(
                f"The engine is healthy and talks garbage: {problem}: {answer[:120]!r}.",
                "Look at the artifact's tokenizer and chat template, and at the engine's log; production is untouched.",
                where=url,
            )
    tell(f"{url} is warm: {first.strip()[:60]!r}")


def _answer(url: str, plan: EnginePlan, prompt: str) -> str:
    body = {
        "model": plan.model_name,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 16,
        "temperature": 0,
    }
    try:
        response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=FIRST_ANSWER_SECONDS)
        response.raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"] or "")
    except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
        raise EngineFailed(
            f"The engine failed its first real request: {type(error).__name__}: {error}.",
            "Read its log; production is untouched.",
            where=url,
        ) from None
