"""What fits where, and what a refusal says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from examples import tiny
from examples.faults import Faults
from examples.hub import publish, serving
from tasks.fit.gpus import gpu, gpu_names
from tasks.fit.report import fit
from tasks.fit.rows import FitReport
from tasks.fit.shape import ModelShape
from tasks.source.hub import pin
from weighbridge.errors import DoesNotFit, GpuUnknown, SchemeUnknown

GIB = 2**30


def row(report: FitReport, name: str, scheme: str) -> Any:
    return next(one for one in report.rows if (one.gpu, one.scheme) == (name, scheme))


def test_llama_8b_on_l4_and_l40s(llama: ModelShape, make_line: Any) -> None:
    report = fit(llama, make_line("L4", "L40S", schemes=["bf16", "int8", "int4"], context=8192, concurrency=8))
    assert row(report, "L4", "bf16").verdict == "no"
    assert row(report, "L4", "int4").verdict == "fits"
    assert row(report, "L40S", "bf16").verdict == "fits"
    assert report.schemes == ("bf16", "int8", "int4")
    assert (report.plan.context, report.plan.concurrency, report.plan.kv_gib) == (8192, 8, 8.0)
    small = row(report, "L4", "int4")
    assert small.weights_gib == pytest.approx(5_700_595_200 / GIB, abs=1e-4)
    assert (small.kv_bytes_per_token, small.kv_gib, small.count) == (131_072, 8.0, 1)
    assert small.capacity_gib == pytest.approx(0.9 * 22.0)
    assert small.total_gib == pytest.approx(small.weights_gib + small.kv_gib + small.overhead_gib, abs=1e-3)
    # 1 GiB a request of full context.
    assert small.max_concurrency == pytest.approx(small.capacity_gib - small.weights_gib - small.overhead_gib, abs=0.01)


def test_vllms_own_log_is_met_within_its_rounding(llama: ModelShape, make_line: Any) -> None:
    # Llama 3 8B on an 80 GB card with vLLM's defaults of 8,192 batched tokens and 256 sequences: 0.25 GiB beside
    # torch, and activations of 8192*4096*2 + 256*128256*14.9 bytes = 0.518 GiB.
    flags = {"max-num-batched-tokens": 8192, "max-num-seqs": 256}
    report = fit(llama, make_line("H100", schemes=["bf16"], flags=flags, context=8192, concurrency=8))
    assert row(report, "H100", "bf16").overhead_gib == pytest.approx(0.25 + 0.518, abs=0.001)


def test_the_engines_flags_count(llama: ModelShape, make_line: Any) -> None:
    target = {"context": 8192, "concurrency": 8}
    plain = row(fit(llama, make_line("L40S", schemes=["bf16"], **target)), "L40S", "bf16")
    flags = {"gpu-memory-utilization": 0.8, "kv-cache-dtype": "fp8"}
    tuned = row(fit(llama, make_line("L40S", schemes=["bf16"], flags=flags, **target)), "L40S", "bf16")
    assert tuned.capacity_gib == pytest.approx(plain.capacity_gib * 8 / 9, abs=1e-3)
    assert tuned.kv_gib == plain.kv_gib / 2


def test_little_to_spare_is_tight(llama: ModelShape, make_line: Any) -> None:
    report = fit(llama, make_line("L4", schemes=["int4"], context=8192, concurrency=14))
    assert row(report, "L4", "int4").verdict == "tight"
    assert report.schemes == ("int4",)


def test_only_schemes_that_fit_somewhere_go_on(llama: ModelShape, make_line: Any) -> None:
    report = fit(llama, make_line("T4", schemes=["bf16", "int4"], context=2048, concurrency=4))
    assert report.schemes == ("int4",)
    assert "weights alone" in row(report, "T4", "bf16").reason


def test_a_scheme_that_the_gpu_lacks_is_no(llama: ModelShape, make_line: Any) -> None:
    report = fit(llama, make_line("B200", schemes=["int8", "fp8"]))
    assert (row(report, "B200", "int8").verdict, report.schemes) == ("no", ("fp8",))
    assert row(report, "B200", "int8").reason == "B200 does not run int8"


def test_a_quantized_release_is_only_served_as_published(llama: ModelShape, make_line: Any) -> None:
    shape = llama.model_copy(update={"config": {**llama.config, "quantization_config": {"quant_method": "awq"}}})
    report = fit(shape, make_line("H100", schemes=["bf16", "int8"]))
    assert report.schemes == ("bf16",)
    assert "awq" in row(report, "H100", "int8").reason


def test_a_refusal_names_the_nearest_miss_and_what_would_change_it(llama: ModelShape, make_line: Any) -> None:
    line = make_line("T4", "L4", schemes=["bf16", "int8"], context=32768, concurrency=32)
    with pytest.raises(DoesNotFit) as refused:
        fit(llama, line)
    assert "Nearest: int8 on L4 needs" in refused.value.what and "32 x 32768 tokens" in refused.value.what
    assert refused.value.next_step.startswith("Set target.concurrency to 2")
    fit(llama, make_line("T4", "L4", schemes=["bf16", "int8"], context=32768, concurrency=2))
    # 128 GiB of cache: an H200 (126 GiB usable) is too small.
    assert refused.value.next_step.endswith("or name B200 in target.gpus in lines/llama.yaml.")


def test_a_refusal_may_suggest_another_scheme_or_gpu(llama: ModelShape, make_line: Any) -> None:
    line = make_line("T4", schemes=["bf16"], context=1024, concurrency=4)
    with pytest.raises(DoesNotFit) as refused:
        fit(llama, line)
    assert refused.value.next_step == "Add int8 to schemes, or name L4 in target.gpus in lines/llama.yaml."


def test_unknown_names_are_refused_before_the_hub_is_asked(llama: ModelShape, make_line: Any) -> None:
    with pytest.raises(GpuUnknown, match="H100"):
        fit(llama, make_line("H1000", schemes=["int8"]))
    with pytest.raises(SchemeUnknown):
        fit(llama, make_line("H100", schemes=["int3"]))


def test_an_engine_without_a_profile_is_planned_as_the_nearest(llama: ModelShape, make_line: Any) -> None:
    assert fit(llama, make_line("H100", schemes=["int8"], engine="new")).profile == "vllm"


def test_transformers_unpacks_what_it_serves(make_shape: Any, make_line: Any) -> None:
    shape = make_shape(tiny.CONFIG)
    report = fit(shape, make_line("host", schemes=["int8", "int4"], engine="transformers", context=256, concurrency=2))
    assert report.schemes == ("int8", "int4")
    numbers = sum(tensor.elements for tensor in shape.tensors)
    for one in report.rows:
        assert one.weights_gib == pytest.approx(4 * numbers / GIB, abs=1e-4)
        assert one.kv_bytes_per_token == 2 * 2 * 2 * 32 * 4


def test_every_gpu_of_the_catalogue_is_sound() -> None:
    named = (
        "T4 L4 A10 A100-40 A100-80 L40S RTX4090 RTX5090 RTX6000-Ada RTX-PRO-6000 H100-PCIe H100 H200 B200 MI300X host"
    )
    assert gpu_names() == tuple(named.split())
    assert gpu("H100").memory_gib == gpu("A100-80").memory_gib == 79.2
    for name in gpu_names():
        assert gpu(name).memory_gib > 0 and gpu(name).source and "int4" in gpu(name).supports


def test_a_release_on_the_hub_is_planned_from_its_headers(
    tmp_path: Path, make_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults()
    publish(tmp_path / "hub", "acme/llama", tiny.build(tmp_path / "tiny", shards=2, vocab_size=8192))
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(tmp_path / "home"))
    with serving(tmp_path / "hub", faults) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        line = make_line("host", schemes=["int8"], engine="transformers", context=256, concurrency=2)
        report = fit(pin(line), line)
    weights = [one for one in faults.served if one.path.startswith("/cdn/")]
    assert len(weights) == 2 and all(one.sent_bytes <= 100_001 for one in weights)
    numbers = sum(math.prod(sides) for sides in tiny.shapes({**tiny.CONFIG, "vocab_size": 8192}).values())
    assert report.rows[0].weights_gib == pytest.approx(4 * numbers / GIB, abs=1e-4)
