"""The price list: the built-in entries are valid, and a user's file overrides them or is refused."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.cost.prices import HOURS_PER_MONTH, Exchange, PriceList, load_prices
from weighbridge.errors import PricesInvalid

RATE = Exchange(usd_per_eur=1.25, date=datetime.date(2026, 11, 1), source="by hand")


def entry_of(prices: PriceList, name: str) -> Any:
    return next(entry for entry in (*prices.rentals, *prices.owned, *prices.hosted) if entry.id == name)


def own_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_required_prices_have_date_and_source() -> None:
    prices = load_prices()
    assert (entry_of(prices, "scaleway-l40s").price, entry_of(prices, "scaleway-l40s").gpu) == (1.40, "L40S")
    assert (entry_of(prices, "scaleway-h100-pcie").price, entry_of(prices, "scaleway-h100-pcie").gpu) == (
        2.73,
        "H100-PCIe",
    )
    assert min(entry.price for entry in prices.rentals if entry.provider == "Hetzner") == 184
    assert any(entry.provider == "OVHcloud" for entry in prices.rentals)
    assert all(entry.source and entry.date <= datetime.date(2026, 11, 24) for entry in prices.rentals)
    assert all(entry.source and entry.date <= datetime.date(2026, 11, 24) for entry in prices.hosted)


def test_only_european_providers_count_as_sovereign() -> None:
    providers = {entry.provider for entry in load_prices().rentals if entry.sovereign}
    assert providers == {"Scaleway", "OVHcloud", "Hetzner"}


def test_prices_convert_to_euros_a_month() -> None:
    prices = load_prices()
    assert entry_of(prices, "scaleway-l40s").server_monthly_eur(2, RATE) == pytest.approx(2 * 1.40 * HOURS_PER_MONTH)
    assert entry_of(prices, "hetzner-gex44").server_monthly_eur(1, RATE) == 184
    assert entry_of(prices, "runpod-l40s").server_monthly_eur(1, RATE) == pytest.approx(1.09 / 1.25 * HOURS_PER_MONTH)


def test_the_blended_price_follows_the_share_of_prompts() -> None:
    model = entry_of(load_prices(), "scaleway-qwen3.8-27b")
    assert model.blended_eur_per_million(1, RATE) == pytest.approx(0.60)
    assert model.blended_eur_per_million(0.75, RATE) == pytest.approx(0.75 * 0.60 + 0.25 * 3.30)


def test_a_price_is_stale_after_half_a_year() -> None:
    entry = entry_of(load_prices(), "scaleway-l40s")
    assert not entry.stale(entry.date + datetime.timedelta(days=180))
    assert entry.stale(entry.date + datetime.timedelta(days=181))


def test_a_user_file_overrides_fields_and_adds_entries(tmp_path: Path) -> None:
    path = own_file(
        tmp_path,
        """
        exchange: {usd_per_eur: 1.2}
        rentals:
          scaleway-l40s: {price: 1.10, date: 2026-11-20, source: our contract}
          corner-shop:
            {provider: Corner Shop, gpu: L4, sizes: [1, 2], price: 100, currency: EUR, per: month,
             sovereign: true, date: 2026-11-20, source: a leaflet}
        owned:
          basement:
            {gpu: RTX6000-Ada, sizes: [4], capex_eur: 36000, amortisation_months: 36, power_kw: 1.5,
             eur_per_kwh: 0.2, hosting_eur_per_month: 100, date: 2026-11-20, source: our books}
        """,
    )
    prices = load_prices(path)
    changed = entry_of(prices, "scaleway-l40s")
    assert (changed.price, changed.source, changed.sizes) == (1.10, "our contract", (1, 2, 4, 8))
    assert entry_of(prices, "corner-shop").server_monthly_eur(2, RATE) == 200
    assert entry_of(prices, "basement").server_monthly_eur(4, RATE) == pytest.approx(1000 + 1.5 * 730 * 0.2 + 100)
    assert prices.exchange.usd_per_eur == 1.2
    assert entry_of(load_prices(), "scaleway-l40s").price == 1.40


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rentals: {scaleway-l40s: {price: -1}}", ["mine.yaml, rentals.scaleway-l40s", "price: "]),
        ("rentals: {scaleway-l40s: {prise: 1}}", ["mine.yaml, rentals.scaleway-l40s", "prise: "]),
        ("rentals: {scaleway-l40s: {gpu: L40}}", ["mine.yaml, rentals.scaleway-l40s", "no GPU called 'L40'"]),
        ("rentals: {scaleway-l40s: {sizes: [0]}}", ["mine.yaml, rentals.scaleway-l40s", "sizes: "]),
        ("rentals: {scaleway-l40s: {currency: GBP}}", ["mine.yaml, rentals.scaleway-l40s", "currency: "]),
        ("rentals: {new: {provider: X}}", ["mine.yaml, rentals.new", "gpu: field required", "price: field required"]),
        ("rentals: {new: 3}", ["rentals.new must be a mapping", "mine.yaml"]),
        ("hosted: {reference-70b: {input_price: dear}}", ["mine.yaml, hosted.reference-70b", "input_price: "]),
        ("exchange: {usd_per_eur: 0}", ["mine.yaml, exchange", "usd_per_eur: "]),
        ("rental: {}", ["no section 'rental'", "mine.yaml"]),
        ("rentals: [", ["not YAML", "mine.yaml, line "]),
        ("just words", ["must be a mapping", "mine.yaml"]),
    ],
)
def test_an_invalid_file_error_names_file_entry_and_field(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(PricesInvalid) as refused:
        load_prices(own_file(tmp_path, text))
    assert all(part in str(refused.value) for part in said), str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PricesInvalid, match="cannot be read"):
        load_prices(tmp_path / "none.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_prices(own_file(tmp_path, "")) == load_prices()
