"""The fit of a line: rows, schemes that stay, and the error if nothing fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from examples.faults import Faults
from examples.hub import publish, serving
from registry.installation import Installation
from tasks.fit.hardware.gpus import gpu
from tasks.fit.model.parts import Part
from tasks.fit.model.shape import ModelShape, shape_of_config
from tasks.fit.plot import draw
from tasks.fit.report import fit, fit_release
from tasks.fit.request import FitRequest
from tasks.fit.rows import FitReport, FitRow
from tasks.source.provider import pin
from weighbridge.errors import ArchitectureUnknown, DoesNotFit, EngineUnknown, GpuUnknown, SchemeUnknown

GIB = 2**30


def row(report: FitReport, name: str, scheme: str) -> FitRow:
    return next(row for row in report.rows if (row.gpu, row.scheme) == (name, scheme))


def test_llama_8b_on_l4_and_l40s(llama: ModelShape, make_line: Any) -> None:
    report = fit(llama, make_line("L4", "L40S", schemes=["bf16", "int8", "int4"], context=8192, concurrency=8))
    assert [(row.scheme, row.gpu) for row in report.rows] == [
        (scheme, name) for scheme in ("bf16", "int8", "int4") for name in ("L4", "L40S")
    ]
    assert row(report, "L4", "bf16").verdict == "no"
    assert row(report, "L4", "int4").verdict == "fits"
    assert row(report, "L40S", "bf16").verdict == "fits"
    assert report.schemes == ("bf16", "int8", "int4")
    assert (report.plan.context, report.plan.concurrency, report.plan.kv_gib) == (8192, 8, 8.0)
    assert report.profile == "vllm 0.20 and newer"


def test_engine_flags_change_the_plan(llama: ModelShape, make_line: Any) -> None:
    target = {"context": 8192, "concurrency": 8}
    plain = row(fit(llama, make_line("L40S", schemes=["bf16"], **target)), "L40S", "bf16")
    flags = {"gpu-memory-utilization": 0.8, "kv-cache-dtype": "fp8"}
    tuned = row(fit(llama, make_line("L40S", schemes=["bf16"], flags=flags, **target)), "L40S", "bf16")
    assert tuned.capacity_gib == pytest.approx(plain.capacity_gib * 0.8 / 0.92, abs=1e-3)
    assert tuned.kv_needed_gib == plain.kv_needed_gib / 2
    two = row(
        fit(llama, make_line("L40S", schemes=["bf16"], flags={"tensor-parallel-size": 2}, **target)), "L40S", "bf16"
    )
    assert (two.tp, two.count) == (2, 2) and two.weights_gib == pytest.approx(plain.weights_gib / 2, rel=0.01)
    flags = {"pipeline-parallel-size": 2, "enforce-eager": True}
    staged = row(fit(llama, make_line("L40S", schemes=["bf16"], flags=flags, **target)), "L40S", "bf16")
    assert (staged.pp, staged.count, staged.cuda_graph_gib) == (2, 2, 0)


def test_a_request_takes_the_lines_concurrency_and_the_engines_flag_names(make_line: Any) -> None:
    request = FitRequest.of_line(make_line("L4", schemes=["int4"], concurrency=16, context=2048))
    assert (request.context, request.concurrency, request.max_num_seqs) == (2048, 16, 16)
    line = make_line(
        "L4", schemes=["int4"], engine="sglang", flags={"mem-fraction-static": 0.7, "chunked-prefill-size": 99}
    )
    request = FitRequest.of_line(line)
    assert (request.engine, request.utilization, request.max_num_batched_tokens) == ("sglang", 0.7, 99)
    # Flags of another engine are ignored.
    assert FitRequest.of_line(make_line("L4", schemes=["int4"], flags={"mem-fraction-static": 0.7})).utilization is None


def test_a_tight_scheme_stays_in_the_release(llama: ModelShape, make_line: Any) -> None:
    verdicts = {}
    for concurrency in range(8, 20):
        try:
            report = fit(llama, make_line("L4", schemes=["int4"], context=8192, concurrency=concurrency))
        except DoesNotFit:
            verdicts[concurrency] = "refused"
        else:
            verdicts[concurrency] = report.rows[0].verdict
            assert report.schemes == ("int4",)
    assert list(dict.fromkeys(verdicts.values())) == ["fits", "tight", "refused"]


def test_only_schemes_that_fit_a_gpu_stay_in_the_release(llama: ModelShape, make_line: Any) -> None:
    report = fit(llama, make_line("T4", schemes=["bf16", "int4"], context=2048, concurrency=4))
    assert report.schemes == ("int4",)
    assert "weights alone" in row(report, "T4", "bf16").reason


def test_a_scheme_without_gpu_support_does_not_fit(llama: ModelShape, make_line: Any) -> None:
    report = fit(llama, make_line("B200", schemes=["int8", "fp8"]))
    assert (row(report, "B200", "int8").verdict, report.schemes) == ("no", ("fp8",))
    assert row(report, "B200", "int8").reason == "B200 does not run int8"


def test_a_quantized_release_is_only_served_as_published(published_shape: Any, make_line: Any) -> None:
    shape = published_shape("redhatai--qwen2.5-7b-instruct-fp8-dynamic")
    report = fit(shape, make_line("H100", schemes=["bf16", "int8"]))
    assert report.schemes == ("bf16",)
    assert "compressed-tensors" in row(report, "H100", "int8").reason


def test_does_not_fit_names_the_nearest_row_and_changes_that_help(llama: ModelShape, make_line: Any) -> None:
    line = make_line("T4", "L4", schemes=["bf16", "int8"], context=32768, concurrency=32)
    with pytest.raises(DoesNotFit) as refused:
        fit(llama, line)
    assert "Nearest: int8 on L4 needs" in refused.value.what and "32 x 32768 tokens" in refused.value.what
    assert "missing, most of it the cache (128.00 GiB)" in refused.value.what
    changes, _, file = refused.value.next_step.removeprefix("What would fit instead, cheapest first: ").rpartition(". ")
    assert file == "Change lines/llama.yaml."
    concurrency = int(next(change for change in changes.split("; ") if change.startswith("concurrency")).split()[1])
    fit(llama, make_line("T4", "L4", schemes=["bf16", "int8"], context=32768, concurrency=concurrency))
    # 128 GiB of cache: an H200 is too small, and a B200 does not run int8.
    assert changes.split("; ")[-1] == "MI300X"
    assert refused.value.where == llama.name


def test_does_not_fit_can_suggest_another_scheme_or_gpu(llama: ModelShape, make_line: Any) -> None:
    with pytest.raises(DoesNotFit) as refused:
        fit(llama, make_line("T4", schemes=["bf16"], context=1024, concurrency=4))
    *first, larger = refused.value.next_step.removesuffix(". Change lines/llama.yaml.").split("; ")
    assert first == ["What would fit instead, cheapest first: scheme int8", "--tp 2"]
    assert 18 < gpu(larger).memory_gib < 24


def test_does_not_fit_says_if_no_change_helps(llama: ModelShape, make_line: Any) -> None:
    more = Part("model.layers.0.mlp.up_proj.weight", (14_336, 4096), "BF16", copies=100_000)
    huge = llama.model_copy(update={"parts": (*llama.parts, more)})
    with pytest.raises(DoesNotFit, match="no known GPU holds this one"):
        fit(huge, make_line("H100", schemes=["int4"], concurrency=1))


def test_unknown_names_are_refused_before_any_hub_request(make_line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(hub: Any, source: Any) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("tasks.fit.report.shape_of_source", asked)
    source: Any = object()
    with pytest.raises(GpuUnknown, match="H100"):
        fit_release(Installation.load(), source, make_line("H1000", schemes=["int8"]))
    with pytest.raises(SchemeUnknown, match="int4"):
        fit_release(Installation.load(), source, make_line("H100", schemes=["int3"]))
    with pytest.raises(EngineUnknown, match="vllm"):
        fit_release(Installation.load(), source, make_line("H100", schemes=["int4"], engine="vlm"))


def test_an_unknown_engine_is_refused_and_not_planned_as_another(llama: ModelShape, make_line: Any) -> None:
    with pytest.raises(EngineUnknown, match="no engine called 'new'"):
        fit(llama, make_line("H100", schemes=["int8"], engine="new"))


def test_a_release_on_the_hub_is_planned_from_its_headers(
    tmp_path: Path, make_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults()
    publish(tmp_path / "hub", "acme/llama", tiny.build(tmp_path / "tiny", shards=2, vocab_size=8192))
    with serving(tmp_path / "hub", faults) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        line = make_line("host", schemes=["int8"], engine="transformers", context=256, concurrency=2)
        installation = Installation.load()
        report = fit_release(installation, pin(installation, line), line)
    weights = [request for request in faults.served if request.path.startswith("/cdn/")]
    assert len(weights) == 2 and all(request.sent_bytes <= 100_001 for request in weights)
    numbers = sum(math.prod(sides) for sides in tiny.shapes({**tiny.CONFIG, "vocab_size": 8192}).values())
    assert report.rows[0].weights_gib == pytest.approx(4 * numbers / GIB, abs=1e-4)


def test_a_missing_field_is_named(published_config: Callable[[str], dict[str, Any]], make_line: Any) -> None:
    config = published_config("meta-llama--llama-3.1-8b-instruct")
    for field in ("hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "num_attention_heads"):
        without = {name: value for name, value in config.items() if name not in (field, "head_dim")}
        with pytest.raises(ArchitectureUnknown, match=f"`{field}`"):
            fit(shape_of_config("broken", without), make_line("H100", schemes=["bf16"]))


def test_rows_are_drawn(llama: ModelShape, make_line: Any, tmp_path: Path) -> None:
    report = fit(llama, make_line("L4", "H100", schemes=["bf16", "int4"]))
    for suffix, begins in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        draw(report.rows, tmp_path / f"fit.{suffix}")
        assert (tmp_path / f"fit.{suffix}").read_bytes().startswith(begins)
