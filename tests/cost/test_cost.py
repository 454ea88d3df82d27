"""Cost of serving: the throughput model against public measurements, break-even, reference points."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.cost.monthly import Assumptions, ModelSize, break_even, cost
from tasks.cost.plot import draw, shown_options, stairs_eur
from tasks.cost.prices import PriceList, load_prices
from tasks.cost.throughput import Throughput, Traffic, throughput, touched_share
from tasks.fit.rows import FitRow
from weighbridge.errors import OptionInvalid, PricesInvalid

TODAY = datetime.date(2026, 11, 24)
MILLION = 1e6
LLAMA_70B = ModelSize(name="70b", parameters=70_553_706_496, active_parameters=70_553_706_496)


@dataclass(frozen=True)
class Speed:
    bandwidth_gbs: float
    bf16_tflops: float
    int8_tops: float
    fp8_tflops: float


@dataclass(frozen=True)
class Row:
    """The fields of a planner's row that cost reads."""

    gpu: str
    scheme: str
    weights_gib: float
    kv_tokens: int
    tp: int = 1
    pp: int = 1
    kv_bytes_per_token: int = 327_680
    max_concurrency: float = 8.0
    verdict: str = "fits"

    @property
    def count(self) -> int:
        return self.tp * self.pp


SPEEDS = {
    "L40S": Speed(864, 362, 733, 733),
    "H100-PCIe": Speed(2000, 756, 1513, 1513),
    "H100": Speed(3350, 989, 1979, 1979),
    "RTX-PRO-6000": Speed(1792, 503.8, 1007.6, 1007.6),
    "MI300X": Speed(5300, 1307, 2614, 2614),
    "host": Speed(0, 0, 0, 0),
}
# Weights and cache of Llama 3.3 70B as the planner has them for a context of 4,096, rounded.
ROWS_70B = (
    Row("L40S", "int4", 18.4, 115_000, tp=2, kv_bytes_per_token=163_840),
    Row("H100-PCIe", "int4", 36.8, 101_000),
    Row("H100-PCIe", "int8", 33.9, 110_000, tp=2, kv_bytes_per_token=163_840),
    Row("RTX-PRO-6000", "fp8", 67.7, 46_000),
    Row("RTX-PRO-6000", "bf16", 131.4, 0, verdict="no"),
)


def priced(
    tokens_per_day: float,
    rows: Any = ROWS_70B,
    model: ModelSize = LLAMA_70B,
    prices: PriceList | None = None,
    **assumed: Any,
) -> Any:
    return cost(
        rows, model, tokens_per_day, prices or load_prices(), Assumptions(**assumed), TODAY, gpu_of=SPEEDS.__getitem__
    )


def speed_of(row: Row, gpu: Speed, parameters: int, active_parameters: int, traffic: Traffic) -> Throughput:
    found = throughput(cast(FitRow, row), gpu, parameters, active_parameters, traffic)
    assert found is not None
    return found


# Qwen3-8B on one H100 SXM, vLLM 0.30: scheme, prompt, answer, clients, output tokens a second (silybench-data,
# runs of 24 September 2026, capacity table).
MEASURED = [
    ("bf16", 128, 128, 512, 14540),
    ("bf16", 1024, 128, 80, 3018),
    ("bf16", 128, 1024, 396, 13322),
    ("bf16", 2048, 2048, 40, 2815),
    ("bf16", 8192, 512, 7, 502),
    ("fp8", 128, 128, 512, 16542),
    ("fp8", 1024, 128, 108, 4129),
    ("fp8", 128, 1024, 472, 15103),
    ("fp8", 2048, 2048, 52, 3653),
    ("fp8", 8192, 512, 10, 787),
]


@pytest.mark.parametrize(("scheme", "prompt", "answer", "clients", "measured"), MEASURED)
def test_throughput_matches_public_measurements_within_its_band(
    scheme: str, prompt: int, answer: int, clients: int, measured: int
) -> None:
    weights, tokens = {"bf16": (15.26, 377_024), "fp8": (8.8, 430_272)}[scheme]
    row = Row("H100", scheme, weights, tokens, kv_bytes_per_token=147_456)
    traffic = Traffic(input_share=prompt / (prompt + answer), request_tokens=prompt + answer, max_num_seqs=clients)
    found = speed_of(row, SPEEDS["H100"], 8_190_735_360, 8_190_735_360, traffic)
    assert 0.8 < found.output_tokens_per_second / measured < 1.35
    output_share = answer / (prompt + answer)
    assert found.tokens_per_second_low * output_share < measured < found.tokens_per_second_high * output_share


def test_a_full_copy_still_serves_each_request_fast_enough() -> None:
    row = Row("H100-PCIe", "int4", 36.8, 101_000)
    fast = speed_of(row, SPEEDS["H100-PCIe"], 70 * 10**9, 70 * 10**9, Traffic(stream_tokens_per_second=25))
    slow = speed_of(row, SPEEDS["H100-PCIe"], 70 * 10**9, 70 * 10**9, Traffic(stream_tokens_per_second=2))
    assert fast.seconds_per_output_token <= 1 / 25
    assert slow.tokens_per_second > fast.tokens_per_second
    assert slow.batch == 50


def test_int8_computes_faster_than_8_bit_storage() -> None:
    rows = [Row("L40S", scheme, 8.0, 150_000, kv_bytes_per_token=131_072) for scheme in ("int8", "int8-w8a16")]
    fast, slow = (speed_of(row, SPEEDS["L40S"], 8 * 10**9, 8 * 10**9, Traffic()) for row in rows)
    assert fast.tokens_per_second > 1.2 * slow.tokens_per_second


@given(active=st.floats(0.01, 1), tokens=st.floats(0.1, 1e5))
def test_a_step_reads_between_one_tokens_experts_and_all_weights(active: float, tokens: float) -> None:
    assert active - 1e-9 <= touched_share(active, tokens) <= 1


def test_api_prices_match_reference_points() -> None:
    for volume, euros in ((1, 90), (20, 1_800), (200, 18_000)):
        assert priced(volume * MILLION).hosted.monthly_eur == euros


def test_own_server_costs_match_reference_points() -> None:
    report = priced(20 * MILLION, sovereign_only=True)
    cheapest: dict[str, float] = {}
    for option in report.options:
        cheapest.setdefault(option.provider, option.ha_monthly_eur)
    assert 1_990 < cheapest["Hetzner"] < 2_010
    assert 3_900 < cheapest["Scaleway"] < 4_100
    assert 15 * MILLION < report.break_even_tokens_per_day < 30 * MILLION


def test_200_million_tokens_a_day_need_several_copies() -> None:
    report = priced(200 * MILLION)
    for option in report.options:
        assert option.copies > 1
        assert option.copies_at_best <= option.copies <= option.copies_at_worst
        peak = 200 * MILLION / 86_400 * 4
        assert (option.copies - 1) * option.tokens_per_second_per_copy < peak
        assert peak <= option.copies * option.tokens_per_second_per_copy * 1.001


def test_cost_components_add_up() -> None:
    option = priced(20 * MILLION, staff_hours_per_month=7, staff_eur_per_hour=100).options[0]
    assert option.ha_monthly_eur == pytest.approx(2 * option.monthly_eur)
    assert option.staffing_monthly_eur == 700
    assert option.all_in_monthly_eur == pytest.approx(option.ha_monthly_eur + 700)
    assert option.eur_per_million_tokens == pytest.approx(option.monthly_eur / 600, abs=1e-4)


def test_options_fit_and_are_sorted_by_price() -> None:
    report = priced(20 * MILLION)
    prices = [option.monthly_eur for option in report.options]
    assert prices == sorted(prices)
    assert ("RTX-PRO-6000", "bf16") not in {(option.gpu, option.scheme) for option in report.options}


def test_a_copy_never_spans_servers() -> None:
    prices = load_prices()
    rows = [Row("L40S", "bf16", 17.5, 90_000, tp=8, kv_bytes_per_token=40_960), Row("H100", "int4", 36.8, 101_000)]
    options = {option.price_id: option for option in priced(MILLION, rows, prices=prices).options}
    assert options["scaleway-l40s"].gpus == 8
    # A server with eight GPUs is paid in full, and holds eight copies of one GPU each.
    assert options["aws-p5"].gpus == 8
    assert options["aws-p5"].server_tokens_per_day == pytest.approx(8 * options["lambda-h100"].server_tokens_per_day)
    assert priced(MILLION, [Row("RTX-PRO-6000", "bf16", 66, 50_000, tp=2)]).options == ()


def test_a_gpu_without_a_price_is_reported() -> None:
    report = priced(MILLION, [Row("MI300X", "bf16", 131.4, 100_000)])
    assert (report.options, report.unpriced_gpus) == ((), ("MI300X",))
    assert any("No price known: MI300X" in sentence for sentence in report.warnings)
    assert report.break_even_tokens_per_day is None


def test_stale_prices_are_marked() -> None:
    report = priced(20 * MILLION)
    by_price = {option.price_id: option.stale for option in report.options}
    assert by_price["scaleway-l40s"] and not by_price["hetzner-gex63"]
    assert any("scaleway-l40s" in sentence for sentence in report.warnings if sentence.startswith("Stale"))


def test_sovereign_only_excludes_other_providers() -> None:
    report = priced(20 * MILLION, sovereign_only=True)
    assert {option.provider for option in report.options} == {"Scaleway", "Hetzner"}
    assert all(offer.sovereign or offer.reference for offer in (report.hosted, *report.hosted_others))


def test_a_host_cheaper_than_the_reference_is_reported() -> None:
    report = priced(20 * MILLION)
    assert report.hosted.reference
    assert any("reference" in sentence and "Groq" in sentence for sentence in report.warnings)
    against = priced(20 * MILLION, api="groq-llama-3.1-70b")
    assert against.hosted.provider == "Groq"
    assert against.hosted.monthly_eur < report.hosted.monthly_eur
    with pytest.raises(PricesInvalid, match="no hosted price called 'nobody'"):
        priced(MILLION, api="nobody")


def test_a_mixture_is_priced_by_total_and_timed_by_active_parameters() -> None:
    rows = [Row("H100-PCIe", "int4", 60, 500_000, kv_bytes_per_token=20_000)]
    dense, sparse = (
        priced(MILLION, rows, ModelSize(name="m", parameters=117 * 10**9, active_parameters=active))
        for active in (117 * 10**9, 5 * 10**9)
    )
    assert dense.model_class == sparse.model_class == "120B"
    assert sparse.options[0].tokens_per_second_per_copy > 2 * dense.options[0].tokens_per_second_per_copy


@pytest.mark.parametrize("volume", [0, -1, float("inf"), float("nan")])
def test_an_invalid_volume_is_refused(volume: float) -> None:
    with pytest.raises(OptionInvalid, match="tokens a day"):
        priced(volume)


def stairs(server: float, carries: float, fixed: float, volume: float) -> float:
    """Own cost of a volume, by counting servers up."""
    servers = 1
    while servers * carries < volume:
        servers += 1
    return servers * server + fixed


@given(
    server=st.floats(100, 20_000),
    carries=st.floats(1e5, 1e9),
    fixed=st.just(0.0) | st.floats(1, 20_000),
    api=st.floats(0.05, 20),
)
def test_break_even_is_the_first_meeting_of_both_cost_curves(
    server: float, carries: float, fixed: float, api: float
) -> None:
    at = break_even(server, carries, fixed, api)
    line = api * 30 / 1e6
    if at is None:
        # Even full servers never break even.
        assert line * carries <= server
        return
    assume(at / carries < 1000)
    below = at * (1 - 1e-6)
    assert stairs(server, carries, fixed, below) >= line * below
    assert stairs(server, carries, fixed, at * (1 - 1e-12)) <= line * at * (1 + 1e-6)
    # An earlier break-even could only be at a volume that fills an earlier step.
    for servers in range(1, int(at // carries)):
        assert servers * server + fixed >= line * servers * carries * (1 - 1e-9)


def test_more_expensive_servers_break_even_later() -> None:
    report = priced(20 * MILLION)
    assert report.single_break_even_tokens_per_day < report.break_even_tokens_per_day
    assert report.break_even_tokens_per_day < report.all_in_break_even_tokens_per_day
    assert report.break_even_at_best_tokens_per_day <= report.break_even_tokens_per_day
    assert (report.break_even_at_worst_tokens_per_day or float("inf")) >= report.break_even_tokens_per_day


def test_json_keys_are_stable() -> None:
    data = priced(20 * MILLION).model_dump(mode="json")
    assert {"options", "hosted", "break_even_tokens_per_day", "assumptions", "warnings", "unpriced_gpus"} <= set(data)
    assert {
        "monthly_eur",
        "eur_per_million_tokens",
        "gpus",
        "copies",
        "ha_monthly_eur",
        "staffing_monthly_eur",
        "all_in_monthly_eur",
        "break_even_tokens_per_day",
        "utilization",
    } <= set(data["options"][0])


def test_the_plot_has_one_curve_per_provider_and_gpu(tmp_path: Path) -> None:
    report = priced(20 * MILLION)
    shown = shown_options(report)
    assert len({(option.provider, option.gpu) for option in shown}) == len(shown) == 3
    first = shown[0]
    assert stairs_eur(first, 1) == stairs_eur(first, first.server_tokens_per_day) == 2 * first.server_monthly_eur
    assert stairs_eur(first, first.server_tokens_per_day + 1) == 4 * first.server_monthly_eur
    draw(report, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_works_without_options(tmp_path: Path) -> None:
    draw(priced(MILLION, [Row("MI300X", "bf16", 131.4, 100_000)]), tmp_path / "cost.svg")
    assert (tmp_path / "cost.svg").stat().st_size > 1000


def test_the_plot_shows_dollars_in_names_and_reads_no_formula_of_them(tmp_path: Path) -> None:
    report = priced(MILLION).model_copy(update={"model": r"a/US$^$ \frac{ $"})
    draw(report, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
