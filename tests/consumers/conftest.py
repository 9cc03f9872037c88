"""Parts of billing that several tests use: policies of a day, readings, chains, a plain tariff."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal

import pytest

from consumers.billing.disconnect import DisconnectPolicy
from consumers.billing.energy import EnergyPolicy, Rate, Segment
from consumers.billing.policies import PolicyBook, default_policies, pick
from consumers.billing.registers import LOCAL, Reading
from consumers.billing.tariff import Component, Tariff, TariffClass

DAY = date(2026, 3, 1)


@pytest.fixture(scope="session")
def book() -> PolicyBook:
    return default_policies()


@pytest.fixture(scope="session")
def energy_policy(book: PolicyBook) -> EnergyPolicy:
    return pick(book.energy, DAY)


@pytest.fixture(scope="session")
def disconnect_policy(book: PolicyBook) -> DisconnectPolicy:
    return pick(book.disconnect, DAY, "prepaid-lv")


@pytest.fixture(scope="session")
def segment() -> Callable[..., Segment]:
    def make(
        first: str | Decimal,
        last: str | Decimal,
        mult: str | int | Decimal = 1,
        start: datetime = datetime(2026, 3, 1, tzinfo=LOCAL),
        end: datetime = datetime(2026, 4, 1, tzinfo=LOCAL),
        name: str = "m1",
    ) -> Segment:
        return Segment(
            meter=name,
            multiplier=Decimal(mult),
            first=Reading(id=f"{name}-{start:%m%d}", value=Decimal(first), at=start),
            last=Reading(id=f"{name}-{end:%m%d}", value=Decimal(last), at=end),
            start=start,
            end=end,
        )

    return make


@pytest.fixture(scope="session")
def tariff() -> Callable[..., Tariff]:
    def make(
        *components: Component,
        coefficients: dict[Rate, Decimal] | None = None,
        tariff_class: TariffClass = TariffClass.TWO_PART,
    ) -> Tariff:
        return Tariff(
            id="tariff",
            version="1",
            valid_from=date(2020, 1, 1),
            tariff_class=tariff_class,
            components=components,
            coefficients=coefficients or {},
        )

    return make
