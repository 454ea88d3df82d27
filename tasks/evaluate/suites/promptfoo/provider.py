"""What is left of a configuration's providers: the tools that they offer and the longest answer."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.suites.assertions.kinds.calls import tools_problem
from tasks.evaluate.suites.promptfoo.files import SCHEME, Folder, read_data
from tasks.evaluate.suites.promptfoo.ledger import CannotCarry, Ledger

PROMPTFOO_MAX_TOKENS = 1024
"""What promptfoo's OpenAI provider asks for where nothing is said (OPENAI_MAX_TOKENS)."""
LONGEST = 4096
"""The longest answer that an item may ask for."""
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class Offer(BaseModel):
    """What every item of a configuration takes from its providers."""

    model_config = ConfigDict(frozen=True)

    tools: tuple[dict[str, Any], ...]
    max_tokens: int


def offer_of(config: dict[str, Any], folder: Folder, ledger: Ledger, max_tokens: int | None) -> Offer:
    """Read the providers' tools and lengths; where the providers differ, nothing is taken and the ledger says so."""
    providers = config.get("providers", config.get("targets")) or []
    named = [_config(one) for one in (providers if isinstance(providers, list) else [providers])]
    if named:
        ledger.note("Providers are ignored: the suite is asked of whatever is weighed, greedily (temperature 0).")
    lengths = {number for one in named for key in LENGTHS if (number := number_of(one.get(key)))}
    tools: dict[str, tuple[dict[str, Any], ...]] = {}
    for one in named:
        try:
            read = _tools(one.get("tools") or one.get("functions"), folder)
            tools[json.dumps(read, sort_keys=True)] = read
        except CannotCarry as reason:
            ledger.lose(None, "a provider's tools", reason)
    if len(tools) > 1:
        ledger.lose(None, "the providers' tools", "the providers offer different ones: import one at a time")
    asked = max_tokens or (lengths.pop() if len(lengths) == 1 else PROMPTFOO_MAX_TOKENS)
    if asked > LONGEST:
        ledger.note(f"Answers are cut at {LONGEST} tokens; the configuration says {asked}.")
    return Offer(tools=next(iter(tools.values())) if len(tools) == 1 else (), max_tokens=min(asked, LONGEST))


def number_of(value: Any) -> int | None:
    """A number of tokens, also as text; None for anything else."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and int(text) else None


def _config(provider: Any) -> dict[str, Any]:
    """{"id": …, "config": …} or {id: {"config": …}} or just an id."""
    if isinstance(provider, dict) and "id" not in provider and len(provider) == 1:
        provider = next(iter(provider.values()))
    config = provider.get("config") if isinstance(provider, dict) else None
    return config if isinstance(config, dict) else {}


def _tools(named: Any, folder: Folder) -> tuple[dict[str, Any], ...]:
    if isinstance(named, str) and named.startswith(SCHEME):
        named = read_data(folder.one(named))
    listed = named if isinstance(named, list) else []
    tools = tuple(one if "function" in one else {"type": "function", "function": one} for one in listed)
    if problem := tools_problem(tools):
        raise CannotCarry(problem)
    return tools
