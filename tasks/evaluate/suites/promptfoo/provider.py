"""Tools and the limit of answers from a configuration's providers; everything else of them is ignored."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.suites.assertions.kinds.calls import tools_problem
from tasks.evaluate.suites.promptfoo.files import SCHEME, Folder, read_data
from tasks.evaluate.suites.promptfoo.import_log import CannotConvert, ImportLog

PROMPTFOO_MAX_TOKENS = 1024
"""Default of promptfoo's OpenAI provider (OPENAI_MAX_TOKENS)."""
LONGEST = 4096
"""Upper limit of an item's max_tokens."""
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class Offer(BaseModel):
    """Tools and max_tokens of every item of a configuration."""

    model_config = ConfigDict(frozen=True)

    tools: tuple[dict[str, Any], ...]
    max_tokens: int


def read_offer(config: dict[str, Any], folder: Folder, import_log: ImportLog, max_tokens: int | None) -> Offer:
    """Read the providers' tools and max_tokens; if the providers differ, none are used and the log says so."""
    providers = config.get("providers", config.get("targets")) or []
    configs = [_config(provider) for provider in (providers if isinstance(providers, list) else [providers])]
    if configs:
        import_log.note("Providers are ignored: the suite is sent to the models that are compared, at temperature 0.")
    lengths = {number for values in configs for key in LENGTHS if (number := parse_tokens(values.get(key)))}
    tools: dict[str, tuple[dict[str, Any], ...]] = {}
    for values in configs:
        try:
            offered = _tools(values.get("tools") or values.get("functions"), folder)
            tools[json.dumps(offered, sort_keys=True)] = offered
        except CannotConvert as reason:
            import_log.skip(None, "a provider's tools", reason)
    if len(tools) > 1:
        import_log.skip(None, "the providers' tools", "the providers offer different ones: import one at a time")
    requested = max_tokens or (lengths.pop() if len(lengths) == 1 else PROMPTFOO_MAX_TOKENS)
    if requested > LONGEST:
        import_log.note(f"Answers are cut at {LONGEST} tokens; the configuration says {requested}.")
    return Offer(tools=next(iter(tools.values())) if len(tools) == 1 else (), max_tokens=min(requested, LONGEST))


def parse_tokens(value: Any) -> int | None:
    """Read a number of tokens, also from text; None for anything else."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and int(text) else None


def _config(provider: Any) -> dict[str, Any]:
    """Read the config of {"id": …, "config": …}, {id: {"config": …}} or a bare id."""
    if isinstance(provider, dict) and "id" not in provider and len(provider) == 1:
        provider = next(iter(provider.values()))
    config = provider.get("config") if isinstance(provider, dict) else None
    return config if isinstance(config, dict) else {}


def _tools(raw: Any, folder: Folder) -> tuple[dict[str, Any], ...]:
    if isinstance(raw, str) and raw.startswith(SCHEME):
        raw = read_data(folder.find_file(raw))
    entries = raw if isinstance(raw, list) else []
    tools = tuple(entry if "function" in entry else {"type": "function", "function": entry} for entry in entries)
    if problem := tools_problem(tools):
        raise CannotConvert(problem)
    return tools
