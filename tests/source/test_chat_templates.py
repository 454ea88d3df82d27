"""Chat templates: real ones render as in transformers, hostile ones end within limits and are refused."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples import tiny
from tasks.evaluate.drift.held_out import Turn
from tasks.evaluate.drift.reading import render as render_turns
from tasks.source import chat_templates
from tasks.source.admission import admit
from tasks.source.chat_templates import Renderer, TemplateRefuses, probes, render, template_flaws
from tasks.source.provider import pin
from weighbridge.errors import ModelUnreadable, SourceRefused
from weighbridge.untrusted import Limits

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_TOOLS = """{%- if tools %}
    {{- '<tools>' }}
    {%- for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' and not loop.first %}{{ raise_exception('system first') }}{% endif %}
    {%- if loop.index0 > 300 %}{% break %}{% endif %}
    {%- generation %}{{ bos_token }}{{ message.content }}{% endgeneration %}
{%- endfor %}
{{- '\\n' if add_generation_prompt else '!' }}
"""
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops by a variable": "{% set n = 99999 %}{% for a in range(n) %}{% for b in range(n) %}{% endfor %}{% endfor %}",
    "a text doubled": "{% set s = namespace(x='aaaa') %}{% for i in range(60) %}{% set s.x = s.x ~ s.x %}{% endfor %}",
    "a text multiplied": "{{ 'a' * 10000000000 }}",
    "a text multiplied twice": "{{ ('a' * 100000) * 100000 }}",
    "a power": "{{ 10 ** 10 ** 8 }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "a recursive macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "deep nesting": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "a refusal of everything": "{{ raise_exception('no') }}",
    "no Jinja": "{% if %}",
    "a large prompt": "{{ 'a' * 3000000 }}",
    "a large template": "a" * (2**20 + 1),
}
SHORT = Limits(seconds=2, memory_bytes=256 * 2**20)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_within_its_limits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_templates, "LIMITS", SHORT)
    began = time.monotonic()
    assert template_flaws({"default": HOSTILE[name]}, {})
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("template", [CHATML, WITH_TOOLS])
def test_a_usual_template_has_no_flaw_and_renders_as_in_transformers(template: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    assert template_flaws({"default": template}, {"bos_token": "<s>"}) == []
    for probe in probes():
        if probe.name in ("parts", "no message"):
            continue
        variables: dict[str, Any] = {"bos_token": "<s>", **probe.variables}
        theirs = render_jinja_template([probe.messages], chat_template=template, **variables)[0][0]
        assert render(template, probe.messages, variables) == theirs


def test_a_template_without_end_is_a_named_error_where_it_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_templates, "LIMITS", SHORT)
    turns = [Turn(role="user", content="Hello")]
    with Renderer() as renderer:
        looping = SimpleNamespace(chat_template=HOSTILE["loops by a variable"])
        with pytest.raises(ModelUnreadable, match="more than 2 s"):
            render_turns(looping, turns, renderer)
        with pytest.raises(TemplateRefuses, match="no"):
            renderer.render(SimpleNamespace(chat_template="{{ raise_exception('no') }}"), [])
        assert render_turns(SimpleNamespace(chat_template=CHATML), turns, renderer).startswith(
            "<|im_start|>user\nHello"
        )


def test_a_release_with_a_hostile_template_is_refused_with_the_reason(
    hub: Any, line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_templates, "LIMITS", SHORT)
    folder = tiny.build(tmp_path / "looping")
    (folder / "chat_template.jinja").write_text(HOSTILE["loops by a variable"])
    hub.publish(folder)
    source = pin(hub.installation, line)
    with pytest.raises(SourceRefused, match="its chat template has no end: it takes more than 2 s"):
        admit(source, line)
