"""The price list: rented and owned GPUs, hosted models, each with its date and source.

`prices.yaml` beside this file is read first; a user's own file overrides single fields by an entry's id, or adds
entries. All prices are net of VAT. This module returns euros.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tasks.fit.hardware.gpus import gpu_names
from weighbridge.documents import read_yaml
from weighbridge.errors import DocumentInvalid, PricesInvalid
from weighbridge.validation import all_faults

HOURS_PER_MONTH = 730
"""Hours that clouds bill for a month: 8,760 a year / 12."""
STALE_AFTER_DAYS = 180
"""Half a year. Older prices are marked as stale, not dropped."""
Currency = Literal["EUR", "USD"]
SECTIONS = ("exchange", "rentals", "owned", "hosted")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Exchange(_Part):
    """Exchange rate of one day."""

    usd_per_eur: float = Field(gt=0)
    date: datetime.date
    source: str = Field(min_length=1)

    def eur(self, amount: float, currency: Currency) -> float:
        """Convert an amount to euros."""
        return amount if currency == "EUR" else amount / self.usd_per_eur


class _Dated(_Part):
    id: str
    date: datetime.date = Field(description="when the price was read")
    source: str = Field(min_length=1)

    def stale(self, today: datetime.date) -> bool:
        """Whether the price is too old to rely on."""
        return (today - self.date).days > STALE_AFTER_DAYS


class _Servers(_Dated):
    provider: str
    gpu: str = Field(description="a name in tasks/fit/hardware/gpus.yaml")
    sizes: tuple[int, ...] = Field(min_length=1, description="GPUs that a server can have")
    commitment: str = "on demand"
    region: str = "unspecified"
    sovereign: bool = Field(description="an EU provider without a parent outside the EU")

    @field_validator("sizes")
    @classmethod
    def _positive(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if min(sizes) < 1:
            raise ValueError("each size must be at least 1 GPU")
        return tuple(sorted(set(sizes)))


class Rental(_Servers):
    """GPUs rented by the hour or by the month."""

    price: float = Field(gt=0, description="of one GPU with its share of the server")
    currency: Currency
    per: Literal["hour", "month"]
    setup: float = Field(0, ge=0, description="paid once for each server")

    def server_monthly_eur(self, gpus: int, exchange: Exchange) -> float:
        """Monthly price of a server with this many GPUs that is never switched off."""
        hours = HOURS_PER_MONTH if self.per == "hour" else 1
        return gpus * hours * exchange.eur(self.price, self.currency)

    def server_setup_eur(self, exchange: Exchange) -> float:
        """One-time cost of a server, before its first month."""
        return exchange.eur(self.setup, self.currency)


class Owned(_Servers):
    """A server that you bought: its price spread over its life, and its power. Amounts are for the whole server."""

    provider: str = "own hardware"
    sovereign: bool = True
    commitment: str = "bought"
    capex_eur: float = Field(gt=0)
    amortisation_months: int = Field(ge=1)
    power_kw: float = Field(ge=0, description="mean draw, cooling included")
    eur_per_kwh: float = Field(ge=0)
    hosting_eur_per_month: float = Field(0, ge=0, description="space, network, spare parts")

    @field_validator("sizes")
    @classmethod
    def _single(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(sizes) != 1:
            raise ValueError("a bought server has one size")
        return sizes

    def server_monthly_eur(self, gpus: int, exchange: Exchange) -> float:
        """Amortisation, power and hosting of one server."""
        power = self.power_kw * HOURS_PER_MONTH * self.eur_per_kwh
        return self.capex_eur / self.amortisation_months + power + self.hosting_eur_per_month

    def server_setup_eur(self, exchange: Exchange) -> float:
        """0: the capex is spread over the monthly cost."""
        return 0.0


class Hosted(_Dated):
    """A model behind a hosted API, priced by the token."""

    provider: str
    model: str
    parameters_billion: float = Field(gt=0, description="total, which puts it in a class")
    input_price: float = Field(ge=0, description="of a million tokens")
    output_price: float = Field(ge=0, description="of a million tokens")
    currency: Currency
    sovereign: bool
    reference: bool = False

    def blended_eur_per_million(self, input_share: float, exchange: Exchange) -> float:
        """Price of a million tokens of which `input_share` are input."""
        blended = input_share * self.input_price + (1 - input_share) * self.output_price
        return exchange.eur(blended, self.currency)


class PriceList(_Part):
    """All known prices."""

    exchange: Exchange
    rentals: tuple[Rental, ...]
    owned: tuple[Owned, ...]
    hosted: tuple[Hosted, ...]

    def servers_with(self, gpu: str) -> tuple[Rental | Owned, ...]:
        """Find the offers of one GPU; empty if no price is known."""
        every: tuple[Rental | Owned, ...] = (*self.rentals, *self.owned)
        return tuple(offer for offer in every if offer.gpu == gpu)

    def cheapest_monthly_eur(self, gpu: str, count: int) -> float | None:
        """Monthly price of the cheapest server with this many GPUs of a kind, or None if no price is known."""
        fitting = (
            offer.server_monthly_eur(min(size for size in offer.sizes if size >= count), self.exchange)
            for offer in self.servers_with(gpu)
            if max(offer.sizes) >= count
        )
        return min(fitting, default=None)


Entry = TypeVar("Entry", Rental, Owned, Hosted)


def load_prices(own: Path | None = None) -> PriceList:
    """The built-in price list, with a user's own file over it.

    Args:
        own: a file of the same layout; an entry with a known id needs only the fields that differ.

    Raises:
        PricesInvalid: a file is not YAML, or an entry has a field that is missing, unknown or out of range; names
            file, entry and field.
    """
    shipped = Path(__file__).with_name("prices.yaml")
    content, origin = _sections(shipped), {}
    for section, entries in (_sections(own) if own is not None else {}).items():
        assert own is not None
        if section == "exchange" and entries:
            content[section] |= entries
            origin[section, section] = own
        elif section != "exchange":
            for name, fields in entries.items():
                content[section][name] = content[section].get(name, {}) | _mapping(own, f"{section}.{name}", fields)
                origin[section, name] = own
    exchange = _entry(Exchange, content["exchange"], origin.get(("exchange", "exchange"), shipped), "exchange")
    return PriceList(
        exchange=exchange,
        rentals=_entries(Rental, "rentals", content, origin, shipped),
        owned=_entries(Owned, "owned", content, origin, shipped),
        hosted=_entries(Hosted, "hosted", content, origin, shipped),
    )


def _sections(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = read_yaml(path)
    except DocumentInvalid as error:
        raise PricesInvalid(error.what, error.next_step, where=error.where) from None
    content = _mapping(path, "the file", content or {})
    unknown = sorted(set(content) - set(SECTIONS), key=str)
    if unknown:
        raise PricesInvalid(
            f"There is no section {unknown[0]!r} in a price list; sections: {', '.join(SECTIONS)}.",
            "Correct the section's name; docs/how-to/cost.md shows one.",
            where=str(path),
        )
    return {name: _mapping(path, name, content.get(name) or {}) for name in SECTIONS}


def _mapping(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PricesInvalid(f"{name} must be a mapping.", "See docs/how-to/cost.md for the layout.", where=str(path))
    return value


def _entries(
    kind: type[Entry], section: str, content: dict[str, Any], origin: dict[tuple[str, str], Path], shipped: Path
) -> tuple[Entry, ...]:
    entries = []
    for name, fields in content[section].items():
        path = origin.get((section, name), shipped)
        entry = _entry(kind, {**fields, "id": str(name)}, path, f"{section}.{name}")
        # The built-in list may name GPUs unknown to the planner; in a user's file that is a typing error.
        if path != shipped and isinstance(entry, _Servers) and entry.gpu not in gpu_names():
            raise PricesInvalid(
                f"gpu: there is no GPU called {entry.gpu!r}; known: {', '.join(gpu_names())}.",
                "Name one of these, or add yours to tasks/fit/hardware/gpus.yaml.",
                where=f"{path}, {section}.{name}",
            )
        entries.append(entry)
    return tuple(entries)


Part = TypeVar("Part", bound=_Part)


def _entry(kind: type[Part], fields: dict[str, Any], path: Path, name: str) -> Part:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise PricesInvalid(
            f"{all_faults(error)}.", "Correct these fields; docs/how-to/cost.md lists all.", where=f"{path}, {name}"
        ) from None
