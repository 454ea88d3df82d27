"""One row of the fit: its terms, its verdict, and the suggested changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.fit.advice import changes, cheapest_change
from tasks.fit.hardware.gpus import gpu as find_gpu
from tasks.fit.memory.terms import PlannedModel
from tasks.fit.plan import fit_row
from tasks.fit.request import FitRequest
from tasks.schemes import all_schemes
from tasks.schemes import scheme as find_scheme
from tests.fit.fit_support import GPUS, LLAMA, MIXTURE, row


def test_the_terms_add_up(model: Callable[[str], PlannedModel]) -> None:
    found = row(model(LLAMA), "H100", "bf16")
    # 16,060,522,496 bytes and vLLM's tables of 131,072 rotary positions, 128 numbers each.
    assert found.weights_gib == pytest.approx((16_060_522_496 + 131_072 * 128 * 2) / 2**30, abs=1e-4)
    assert (found.kv_bytes_per_token, found.kv_needed_gib, found.count) == (131_072, 8.0, 1)
    assert found.capacity_gib == pytest.approx(0.9 * find_gpu("H100").memory_gib, abs=1e-3)
    inside = found.weights_gib + found.activation_gib + found.non_torch_gib
    assert found.total_gib == pytest.approx(inside + found.kv_needed_gib, abs=1e-3)
    # vLLM's identity: cache = utilization x physical - weights - activation - non-torch.
    assert found.kv_gib == pytest.approx(found.capacity_gib - inside, abs=1e-3)
    # 1 GiB a request of full context.
    assert found.max_concurrency == pytest.approx(found.kv_gib, abs=0.01)
    assert found.kv_tokens == pytest.approx(found.kv_gib * 2**30 / 131_072, abs=16)
    assert found.overhead_gib == pytest.approx(found.activation_gib + found.non_torch_gib + found.cuda_graph_gib)
    assert found.rule_of_thumb_gib == pytest.approx(8_030_261_248 * 2 * 1.2 / 2**30, abs=1e-3)


def test_a_row_matches_a_vllm_log(model: Callable[[str], PlannedModel]) -> None:
    # vLLM 0.19.0 on an H100 of 79.19 GiB, utilization 0.95: 14.99 + 1.89 + 0.25, 58.11 GiB for 476,000 tokens.
    found = row(model(LLAMA), "H100", "bf16", utilization=0.95)
    assert found.weights_gib == pytest.approx(14.99, abs=0.01)
    assert found.kv_gib == pytest.approx(58.11, rel=0.005)
    assert found.kv_tokens == pytest.approx(476_000, rel=0.005)
    assert found.max_concurrency == pytest.approx(58.11, rel=0.005)


def test_pipeline_stages_have_their_own_terms(model: Callable[[str], PlannedModel]) -> None:
    # vLLM 0.19.0, four stages at 0.95: 3.28 GiB on an inner one, 2,257,264 tokens, 275.54 requests at once.
    found = row(model(LLAMA), "H100", "bf16", pp=4, utilization=0.95)
    assert (found.count, found.pp, [stage.layers for stage in found.stages]) == (4, 4, [8, 8, 8, 8])
    assert found.weights_gib == pytest.approx(3.28, abs=0.05)
    assert found.kv_tokens == min(stage.kv_tokens for stage in found.stages)
    assert found.kv_tokens == pytest.approx(2_257_264, rel=0.02)
    # The first stage has the embedding, the last the head.
    first, *inner, last = (stage.weights_gib for stage in found.stages)
    assert min(first, last) > max(inner) == found.weights_gib
    assert found.stages[-1].activation_gib > found.stages[0].activation_gib
    assert not row(model(LLAMA), "H100", "bf16").stages


@pytest.mark.parametrize(
    ("asked", "verdict", "reason"),
    [
        ({"concurrency": 8}, "fits", "GiB to spare"),
        ({"concurrency": 4000}, "no", "most of it the cache"),
        ({"utilization": 0.1}, "no", "the weights alone are"),
        ({"max_num_seqs": 60_000}, "no", "most of it activations"),
        # Graphs are captured in the memory outside the engine's share.
        ({"utilization": 1.0}, "no", "outside the engine's share"),
    ],
)
def test_a_verdict_names_the_limiting_term(
    model: Callable[[str], PlannedModel], asked: dict[str, Any], verdict: str, reason: str
) -> None:
    found = row(model(LLAMA), "H100", "bf16", **asked)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_tight_lies_within_the_error_band(model: Callable[[str], PlannedModel]) -> None:
    verdicts = []
    for concurrency in range(1, 80):
        found = row(model(LLAMA), "H100", "bf16", concurrency=concurrency)
        spare = found.capacity_gib - found.total_gib
        expected = "fits" if spare > found.band_gib else "tight" if spare >= -found.band_gib else "no"
        assert found.verdict == expected, (concurrency, found.reason)
        verdicts.append(found.verdict)
    assert verdicts == sorted(verdicts, key=("fits", "tight", "no").index) and set(verdicts) == {"fits", "tight", "no"}


def test_an_unknown_version_has_a_wider_band(model: Callable[[str], PlannedModel]) -> None:
    assert (
        row(model(LLAMA), "H100", "bf16", version="0.1").band_gib
        > row(model(LLAMA), "H100", "bf16", version="0.6.3").band_gib
    )


# --- properties of every row ------------------------------------------------------------------

ASKED = st.fixed_dictionaries(
    {
        "context": st.sampled_from([256, 4096, 32_768, 131_072]),
        "concurrency": st.sampled_from([1, 4, 16, 100]),
        "kv_dtype": st.sampled_from(["auto", "fp8"]),
    }
)
SCHEMES = [scheme.name for scheme in all_schemes()]
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@QUIET
@given(
    st.sampled_from([LLAMA, MIXTURE]),
    st.sampled_from(GPUS),
    st.sampled_from(SCHEMES),
    ASKED,
)
def test_every_suggested_change_makes_it_fit(
    model: Callable[[str], PlannedModel], name: str, gpu: str, scheme: str, asked: dict[str, Any]
) -> None:
    request = FitRequest(version="0.19", **asked)
    found = fit_row(model(name), request, find_gpu(gpu), find_scheme(scheme))
    if found.verdict == "fits":
        return
    offered = list(changes(model(name), request, find_gpu(gpu), find_scheme(scheme), 1, 1))
    assert cheapest_change(model(name), request, find_gpu(gpu), find_scheme(scheme), found) == next(iter(offered), "")
    for clause in offered:
        changed, on, by, tp = dict(asked), gpu, scheme, 1
        if clause == "an fp8 cache (--kv-dtype fp8)":
            changed["kv_dtype"] = "fp8"
        elif said := re.fullmatch(r"(?:context (\d+) and )?concurrency (\d+)", clause):
            changed |= {"context": int(said[1] or asked["context"]), "concurrency": int(said[2])}
            assert changed["concurrency"] < asked["concurrency"] or changed["context"] < asked["context"]
        elif said := re.fullmatch(r"scheme (\S+)", clause):
            by = said[1]
        elif said := re.fullmatch(r"--tp (\d)", clause):
            tp = int(said[1])
        else:
            on = clause
        again = fit_row(model(name), FitRequest(version="0.19", **changed), find_gpu(on), find_scheme(by), tp)
        assert again.verdict == "fits", (clause, again.reason)


@QUIET
@given(st.sampled_from([LLAMA, MIXTURE]), st.sampled_from(GPUS), st.sampled_from(("bf16", "int8", "int4")), ASKED)
def test_smaller_requests_never_fit_worse(
    model: Callable[[str], PlannedModel], name: str, gpu: str, scheme: str, asked: dict[str, Any]
) -> None:
    order = ("fits", "tight", "no")
    found = row(model(name), gpu, scheme, **asked)
    fewer = row(model(name), gpu, scheme, **{**asked, "concurrency": 1})
    shorter = row(model(name), gpu, scheme, **{**asked, "context": 128})
    smaller = row(model(name), gpu, scheme, **{**asked, "kv_dtype": "fp8"})
    for less in (fewer, shorter, smaller):
        assert order.index(less.verdict) <= order.index(found.verdict)
        assert less.total_gib <= found.total_gib + 1e-3
    assert found.verdict == "no" or found.max_concurrency > 0
    assert found.reason
