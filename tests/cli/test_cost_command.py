"""`weighbridge cost` as a user meets it, for a model of which there is only a config.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.cost import add_to, quantity
from tasks.cost.rows import rows_to_price
from tasks.fit.model.shape import shape_of_folder
from weighbridge.errors import ArchitectureUnknown, LineUnknown, OptionInvalid, PricesInvalid, WeighbridgeError

# meta-llama/Llama-3.3-70B-Instruct, config.json
LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
Run = Callable[..., str]
"""Runs the command in this process; returns its output, or the message of the error that is expected."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama-70b")
    (folder / "config.json").write_text(json.dumps(LLAMA_70B))
    return folder


@pytest.fixture(scope="module")
def planned() -> Callable[..., Any]:
    """The planner's real rows, each planned once."""
    known: dict[Any, Any] = {}

    def rows(shape: Any, request: Any, schemes: tuple[str, ...] = ()) -> Any:
        key = (shape.name, request, tuple(schemes))
        if key not in known:
            known[key] = rows_to_price(shape, request, schemes)
        return known[key]

    return rows


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, planned: Callable[..., Any]) -> Run:
    # A folder is planned without a stack and without the Hub; the settings must not leak into other tests.
    monkeypatch.setattr("weighbridge.settings.use_libraries", lambda settings: None)
    monkeypatch.setattr("tasks.cost.rows.rows_to_price", planned)
    app = typer.Typer()
    add_to(app)
    app.command("other")(lambda: None)

    def command(*arguments: object, fails: type[WeighbridgeError] | None = None) -> str:
        done = CliRunner().invoke(app, ["cost", *map(str, arguments)], env={"COLUMNS": "250"})
        if fails:
            assert isinstance(done.exception, fails), done.output
            return str(done.exception)
        assert done.exception is None, done.exception
        return done.stdout

    return command


@pytest.mark.parametrize(
    ("text", "value"),
    [("20M", 20e6), ("1.5B", 1.5e9), ("500k", 5e5), ("20000000", 2e7), ("20_000_000", 2e7), ("1m", 1e6)],
)
def test_volumes_are_written_as_people_write_them(text: str, value: float) -> None:
    assert quantity(text, "--tokens-per-day") == value


@pytest.mark.parametrize("text", ["", "many", "-5M", "0", "20T", "1e6M", "M"])
def test_a_wrong_volume_is_named(text: str) -> None:
    with pytest.raises(OptionInvalid, match=r"--tokens-per-day"):
        quantity(text, "--tokens-per-day")


@pytest.mark.parametrize(("volume", "api_eur"), [("1M", 90), ("20M", 1_800), ("200M", 18_000)])
def test_a_70b_model_meets_the_reference_points(run: Run, model: Path, volume: str, api_eur: float) -> None:
    report = json.loads(run(model, "--tokens-per-day", volume, "--sovereign", "--json"))
    assert report["hosted"]["monthly_eur"] == api_eur
    assert 15e6 < report["break_even_tokens_per_day"] < 30e6
    cheapest: dict[str, Any] = {}
    for option in report["options"]:
        cheapest.setdefault(option["provider"], option)
    if volume == "200M":
        assert all(option["copies"] > 1 for option in report["options"] if option["tp"] == 1)
    else:
        assert 1_900 < cheapest["Hetzner"]["ha_monthly_eur"] < 2_100
        assert 1_900 < cheapest["Scaleway"]["ha_monthly_eur"] < 4_100


def test_the_table_says_what_a_reader_needs(run: Run, model: Path) -> None:
    shown = run(model, "--tokens-per-day", "20M")
    for expected in (
        "70B class",
        "hetzner-gex63",
        "(not sovereign)",
        "stale",
        "Break-even with high availability: 22.2 million tokens a day",
        "Staffing: 10 hours a month at €80 (assumed)",
        "No price known: ",
        "Groq hosts Llama 3.1 70B for €0.57",
    ):
        assert expected in shown


def test_the_plot_is_written(run: Run, model: Path, tmp_path: Path) -> None:
    run(model, "--plot", tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "--plot" in run(model, "--plot", tmp_path / "out.xyz", fails=OptionInvalid)
    assert "--plot" in run(model, "--plot", tmp_path / "no" / "out.png", fails=OptionInvalid)


def test_own_prices_change_the_answer(run: Run, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("rentals: {scaleway-h100-pcie: {price: 0.1, date: 2026-11-20, source: a dream}}")
    first = json.loads(run(model, "--prices", mine, "--json"))["options"][0]
    assert first["price_id"] == "scaleway-h100-pcie"
    assert first["monthly_eur"] == pytest.approx(0.1 * 730)
    mine.write_text("rentals: {scaleway-h100-pcie: {price: cheap}}")
    assert "rentals.scaleway-h100-pcie" in run(model, "--prices", mine, fails=PricesInvalid)


def test_a_line_brings_its_schemes_and_its_load(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of_folder(model)
    monkeypatch.setattr("tasks.fit.model.shape.shape_of", lambda hub, target: shape)
    report = json.loads(run("--line", "llama", "--tokens-per-day", "20M", "--json"))
    assert {option["scheme"] for option in report["options"]} == {"int8", "int4"}
    # lines/llama.yaml: 16 requests at once.
    assert "at most 16 requests" in report["assumptions"][0]


def test_what_is_missing_or_wrong_is_named(run: Run, model: Path, tmp_path: Path) -> None:
    assert "one model" in run(fails=OptionInvalid)
    assert "one model" in run(model, "--line", "llama", fails=OptionInvalid)
    assert "no line called 'nope'" in run("--line", "nope", fails=LineUnknown)
    assert "no hosted price" in run(model, "--api", "nobody", fails=PricesInvalid)
    run(tmp_path, fails=ArchitectureUnknown)
