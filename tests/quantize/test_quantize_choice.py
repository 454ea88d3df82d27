"""A user's recipe: group size and excluded layers in place of the planned ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from registry.installation import Installation
from registry.store import Artifact, Store
from tasks.quantize import quantization_record, quantize, scheme
from tasks.quantize.plan.recipe import make_recipe
from tasks.quantize.run import recipe_of
from weighbridge.errors import QuantizationUncovered
from weighbridge.line import SchemeChoice

Releases = Callable[..., Path]


def test_excluded_layers_stay_as_published(store: Store, adopted: Callable[..., Artifact]) -> None:
    choice = SchemeChoice(ignore=["*.mlp.down_proj"])
    source = adopted()
    made = quantize(Installation.load(), source, "int8", choice=choice)
    record, whole = (
        quantization_record(made, store),
        quantization_record(quantize(Installation.load(), source, "int8"), store),
    )
    assert record is not None and whole is not None
    assert record.coverage.planned == whole.coverage.planned - 2
    assert record.coverage.share_of_linear_bytes < whole.coverage.share_of_linear_bytes
    assert {ignored.name for ignored in record.recipe.ignored if ignored.reason == "the recipe excludes it"} == {
        f"model.layers.{number}.mlp.down_proj" for number in range(2)
    }
    assert "2 because the recipe excludes it" in (store.path(made) / "README.md").read_text()


def test_a_pattern_that_matches_no_layer_is_named(release: Releases) -> None:
    with pytest.raises(QuantizationUncovered, match=r"'\*.mlp.dwon_proj', which matches no layer"):
        make_recipe(release(), scheme("int8"), choice=SchemeChoice(ignore=["*.mlp.dwon_proj", "*.mlp.up_proj"]))


def test_a_group_size_is_taken_where_it_divides(release: Releases) -> None:
    folder = release(96, 192)
    assert make_recipe(folder, scheme("int4")).group_size == 32
    assert make_recipe(folder, scheme("int4"), choice=SchemeChoice(group_size=48)).group_size == 48
    with pytest.raises(QuantizationUncovered, match="96 wide, and no group size of int4 divides that \\(64\\)"):
        make_recipe(folder, scheme("int4"), choice=SchemeChoice(group_size=64))
    with pytest.raises(QuantizationUncovered, match="asks for groups of 64, and int8 scales whole rows"):
        make_recipe(folder, scheme("int8"), choice=SchemeChoice(group_size=64))


def test_llama_cpps_mixture_takes_no_choice(release: Releases) -> None:
    with pytest.raises(QuantizationUncovered, match=r"llama\.cpp's own mixture"):
        recipe_of(release(), scheme("q8-0"), None, "tiny", SchemeChoice(group_size=32))
