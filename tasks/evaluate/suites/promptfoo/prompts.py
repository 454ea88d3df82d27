"""The prompts of a configuration, as chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.evaluate.suites.assertions.base import ANSWER_BYTES
from tasks.evaluate.suites.promptfoo.files import CODE, OTHER_SCHEME, SCHEME, TEXTS, Folder, read_data, read_text
from tasks.evaluate.suites.promptfoo.import_log import CannotConvert, ImportLog
from tasks.evaluate.suites.promptfoo.templates import Vars, render, render_all
from tasks.evaluate.suites.suite import Message
from weighbridge.documents import parse_json, parse_yaml
from weighbridge.errors import DocumentInvalid

DEFAULT_PROMPT = "{{prompt}}"
"""promptfoo's prompt for a configuration without prompts."""
DELIMITER = "---"


class Prompt(BaseModel):
    """One prompt's template."""

    model_config = ConfigDict(frozen=True)

    label: str
    raw: str


def read_prompts(config: dict[str, Any], folder: Folder, import_log: ImportLog) -> list[Prompt]:
    """Read a configuration's prompts; those that are not text are logged."""
    raw = config.get("prompts")
    if raw is None:
        return [Prompt(label=DEFAULT_PROMPT, raw=DEFAULT_PROMPT)]
    entries = list(raw) if isinstance(raw, (list, dict)) else [raw]
    prompts: list[Prompt] = []
    for number, entry in enumerate(entries, start=1):
        try:
            prompts += _read(entry, folder)
        except CannotConvert as reason:
            import_log.skip(None, f"prompt {number}", reason)
    return prompts


def _read(entry: Any, folder: Folder) -> list[Prompt]:
    label = ""
    if isinstance(entry, dict):
        if entry.get("function"):
            raise CannotConvert("it is a function, and programs are not run: write its text")
        label = str(entry.get("label") or "")
        entry = entry.get("raw") or entry.get("id")
    if isinstance(entry, list):
        entry = json.dumps(entry, ensure_ascii=False)
    if not isinstance(entry, str):
        raise CannotConvert(f"it is no text: {json.dumps(entry, default=str)[:80]}")
    if not _is_file(entry, folder):
        if OTHER_SCHEME.match(entry):
            raise CannotConvert(f"{entry.split(':')[0]}: remote prompts are not fetched: write the text itself")
        return [Prompt(label=label or entry, raw=entry)]
    return [Prompt(label=label or text, raw=text) for path in folder.find(entry) for text in _texts(path)]


def _is_file(entry: str, folder: Folder) -> bool:
    if entry.startswith(SCHEME):
        return True
    if "\n" in entry or not entry.endswith((*TEXTS, *CODE)):
        return False
    return entry.endswith(CODE) or (folder.root / entry).is_file()


def _texts(path: Path) -> list[str]:
    if path.suffix == ".csv":
        return [row["prompt"] for row in read_data(path) if row.get("prompt")]
    if path.suffix == ".jsonl":
        return [json.dumps(line, ensure_ascii=False) for line in read_data(path)]
    text = read_text(path)
    if path.suffix in (".json", ".yaml", ".yml"):
        return [text]
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip() == DELIMITER:
            parts.append([])
        else:
            parts[-1].append(line)
    return [joined for part in parts if (joined := "\n".join(part).strip())]


def render_messages(raw: str, variables: Vars, prefix: str = "", suffix: str = "") -> tuple[Message, ...]:
    """Render a prompt's template: a chat in JSON or YAML, or else one user message.

    Raises:
        CannotConvert: the template cannot be rendered, or the chat contains more than text.
    """
    parsed = _as_json(raw)
    if isinstance(parsed, dict) or (isinstance(parsed, list) and not _is_chat(parsed)):
        raise CannotConvert("the prompt is JSON, but no list of messages with a role and a content")
    if parsed is not None and (prefix or suffix):
        raise CannotConvert("`options.prefix` and `options.suffix` surround a text, and this prompt is a chat")
    if parsed is not None:
        # promptfoo renders the texts of a chat one by one: a quote in a variable does not break the JSON.
        return _messages(render_all(parsed, variables))
    # promptfoo renders a text twice, so that a variable may itself be a template; a chat's texts once.
    text = render(render(prefix + raw + suffix, variables), variables)
    chat = _as_json(text) if text.lstrip().startswith("[") else _as_yaml(text)
    return _messages(chat) if _is_chat(chat) else (Message(role="user", content=text),)


def _as_json(text: str) -> Any:
    """Parse a list or object; None for any other text."""
    try:
        parsed = parse_json(text, "", ANSWER_BYTES)
    except DocumentInvalid:
        return None
    return parsed if isinstance(parsed, (list, dict)) else None


def _as_yaml(text: str) -> Any:
    if not text.lstrip().startswith("- role:"):
        return None
    try:
        return parse_yaml(text, "")
    except DocumentInvalid:
        raise CannotConvert("the prompt begins as a chat in YAML and does not parse once it is rendered") from None


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and "role" in turn for turn in value)


def _messages(chat: list[dict[str, Any]]) -> tuple[Message, ...]:
    return tuple(_message(turn) for turn in chat)


def _message(turn: dict[str, Any]) -> Message:
    role, content = turn["role"], turn.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if role not in ("system", "user", "assistant") or set(turn) - {"role", "content"}:
        extra = sorted(set(turn) - {"role", "content"})
        fields = f" with {', '.join(extra)}" if extra else ""
        raise CannotConvert(f"a message of role {role!r}{fields} is not supported")
    if not isinstance(content, str):
        raise CannotConvert("a message contains more than text (an image, a file): only text is supported")
    return Message(role=role, content=content)
