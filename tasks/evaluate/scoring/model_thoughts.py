"""How a model thinks before its answer, read from its chat template and tokenizer."""

from __future__ import annotations

from typing import Any

from tasks.evaluate.suites.thoughts import family_in, prompt_opens_thought

NO_THOUGHTS = "none"
FROM_PROMPT = " from the prompt"


def thoughts_of(template: str, settings: dict[str, Any]) -> str:
    """Describe a model's thoughts.

    Args:
        template: its chat template; empty if it has none.
        settings: its tokenizer_config.json.

    Returns:
        The family of its markers, followed by FROM_PROMPT where the template begins the thought; or NO_THOUGHTS.
    """
    added = settings.get("added_tokens_decoder")
    entries = added.values() if isinstance(added, dict) else ()
    tokens = [str(entry.get("content")) for entry in entries if isinstance(entry, dict)]
    family = family_in(template, tokens)
    if not family:
        return NO_THOUGHTS
    return family + (FROM_PROMPT if prompt_opens_thought(_generation_prompt(template)) else "")


def read_thoughts(thoughts: str) -> tuple[str, bool]:
    """Return the family that `thoughts_of` named, and whether the template begins the thought."""
    family = thoughts.removesuffix(FROM_PROMPT)
    return ("" if family == NO_THOUGHTS else family), thoughts.endswith(FROM_PROMPT)


def _generation_prompt(template: str) -> str:
    """The prompt for one question; empty for a template that asks for more than a sandbox gives."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"strftime_now": lambda form: "2026-01-01", "raise_exception": str}
    try:
        return environment.from_string(template).render(
            messages=[{"role": "user", "content": "Hello"}], add_generation_prompt=True, bos_token="", eos_token=""
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError):
        return ""
