"""The report: one page with everything, which escapes all text of models and users."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from tasks.evaluate.weigh import Weighed
from tasks.propose.card import make_card
from tasks.propose.dossier import Dossier
from tasks.propose.plots import as_png, forest_plot
from tasks.propose.report import items_jsonl, make_report
from tasks.quantize import Coverage, QuantizationRecord, Recipe
from tasks.quantize.plan.recipe import Ignored, Layer
from tasks.source.pinned import Source
from weighbridge.line import Line


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that don't close."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_verdict_suites_and_both_answers(dossier: Dossier) -> None:
    page = Page(make_report(dossier))
    text = " ".join(page.text.split())
    assert "✓ no worse No worse than production within every suite's margin, on 820 items in 3 suites." in text
    for expected in ("general/agreement", "general/choice", "regression/toy", "−2.0%", dossier.source.commit):
        assert expected in text
    assert "int8 says" in text and "bf16 says" in text
    flips = [attributes for tag, attributes in page.tags if tag == "details"]
    assert len(flips) == 6 + 5 + 3 + 9 + 0 + 1


@pytest.mark.parametrize(
    ("repo", "uri"), [("org/toy", "hf://org/toy@"), ("file:///models/mine", "file:///models/mine@")]
)
def test_the_source_stands_there_by_its_address(
    repo: str, uri: str, line: Line, source: Source, passed: Weighed
) -> None:
    page = Page(make_report(Dossier(line, source.model_copy(update={"repo": repo}), passed, None, None)))
    assert f"Source\n{uri}{source.commit}" in page.text or f"Source{uri}{source.commit}" in page.text


def test_the_report_of_a_baseline_shows_its_wrong_answers(line: Line, source: Source, baseline: Weighed) -> None:
    page = Page(make_report(Dossier(line, source, baseline, None, None)))
    text = " ".join(page.text.split())
    assert "Wrong answers" in text and "Answers that changed" not in text
    shown = [attributes["data-kind"] for tag, attributes in page.tags if tag == "details"]
    assert shown == ["wrong"] * (5 + 9 + 1)
    assert "Question 1 of general/choice?" in text and "bf16 says" in text


def test_every_cell_of_a_wide_table_has_the_label_that_it_needs_on_a_narrow_page(dossier: Dossier) -> None:
    tags = Page(make_report(dossier)).tags
    assert "stacked" in {attributes.get("class") for tag, attributes in tags if tag == "table"}
    cells = [attributes for tag, attributes in tags if tag == "td"]
    assert cells and all(attributes.get("data-label") for attributes in cells)


def test_lost_answers_come_before_gained_ones(dossier: Dossier) -> None:
    flips = dossier.flips(dossier.verdict.suites[1])
    assert [flip.lost for flip in flips] == [True] * 9 + [False] * 3


def test_hostile_answers_stay_text(dossier: Dossier) -> None:
    html = make_report(dossier)
    assert html.count("<script") == 1 and "&lt;script&gt;alert" in html, "the filter's is the only one"
    assert not any(name.startswith("on") for _, attributes in Page(html).tags for name in attributes)
    assert "\x1b" not in html and "\u202e" not in html, "what hides or reorders text is shown as an escape"
    assert "\\x1b[1A\\u202egnp.exe" in html


def test_the_report_needs_no_network_and_its_plots_have_alternative_text(dossier: Dossier) -> None:
    html = make_report(dossier)
    images = [attributes for tag, attributes in Page(html).tags if tag == "img"]
    assert len(images) == 2 and all((image["src"] or "").startswith("data:image/svg+xml;base64,") for image in images)
    assert "general/choice: no worse" in (images[0]["alt"] or "")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)


def test_must_pass_failures_stand_open(line: Line, source: Source, damaged: Weighed) -> None:
    dossier = Dossier(line, source, damaged, None, None)
    page = Page(make_report(dossier))
    text = " ".join(page.text.split())
    assert "✗ regression" in text and "Must pass, failed regression/toy-0" in text
    assert "Nothing was registered" in text and "weighbridge approve" not in text
    assert "102 more are in MLflow: items/general-choice.jsonl" in text, "159 lost and 3 gained, 60 shown"


def test_a_first_release_needs_no_forest(line: Line, source: Source, baseline: Weighed) -> None:
    dossier = Dossier(line, source, baseline, None, None)
    assert forest_plot(dossier) is None
    page = Page(make_report(dossier))
    assert "nothing: it is the line's first release" in page.text and "img" not in {tag for tag, _ in page.tags}


def test_the_items_file_has_every_item_with_both_answers(dossier: Dossier) -> None:
    suite = dossier.verdict.suites[2]
    lines = [json.loads(line) for line in items_jsonl(dossier, suite).splitlines()]
    assert len(lines) == 120
    assert (lines[1]["candidate"]["score"], lines[1]["production"]["score"]) == (0.0, 1.0)
    assert lines[1]["production"]["answer"].startswith("bf16 says")


def test_plots_are_drawn(dossier: Dossier) -> None:
    figure = forest_plot(dossier)
    assert figure is not None
    assert as_png(figure).startswith(b"\x89PNG") and len(as_png(figure)) > 5000


def test_the_report_names_quantized_and_unquantized_weights(line: Line, source: Source, passed: Weighed) -> None:
    ignored = tuple(
        Ignored(name=name, reason="embeddings are looked up, not multiplied", linear_bytes=0) for name in ("a", "b")
    )
    recipe = Recipe(
        scheme="int4",
        method="gptq",
        format="pack-quantized",
        weight_bits=4,
        activation_bits=16,
        group_size=64,
        layers=(Layer(name="x", shape=(64, 64), dtype="BF16", source_bytes=8192),),
        ignored=ignored,
        kept_bytes=100,
    )
    coverage = Coverage(planned=210, found=210, share_of_linear_bytes=0.998, predicted_bytes=2148, written_bytes=2150)
    record = QuantizationRecord(
        recipe=recipe,
        coverage=coverage,
        versions={"llmcompressor": "0.14.0"},
        seconds=42,
        cpu_seconds=70,
        peak_rss_bytes=2**30,
        calibration_tokens=2_048,
    )
    dossier = Dossier(line, source, passed, None, record)
    text = " ".join(Page(make_report(dossier)).text.split())
    assert "210 of 210 planned Linear layers (99.8% of Linear weight bytes) to 4 bits by gptq, groups of 64" in text
    assert "2 because embeddings are looked up" in text and "llmcompressor 0.14.0; 42 s, at most 1.00 GiB" in text
    assert "210 of 210 planned Linear layers" in make_card(dossier)
    assert "Calibrated on 2,048 tokens." in make_card(dossier) and "Note:" not in make_card(dossier)
    short_text = Dossier(line, source, passed, None, record.model_copy(update={"calibration_tokens": 48}))
    assert "Note: gptq watched 48 tokens, fewer than the 64 inputs of the widest layer" in make_card(short_text)
