"""Policies: all numbers that law, regulator or utility decide, in dated versions, read from TOML.

`regulations.toml` beside this module has the versions that the rules document; a site replaces or extends it with its
province's. Unknown keys, overlapping validity and impossible values are ArchiveErrors that name the place.
"""

from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import TypeVar

import msgspec

from consumers.billing.audit import CorrectionPolicy
from consumers.billing.crosscheck import CrossCheckPolicy
from consumers.billing.demand import DemandPolicy
from consumers.billing.disconnect import DisconnectPolicy
from consumers.billing.energy import EnergyPolicy
from consumers.billing.late_fee import LateFeePolicy
from consumers.billing.power_factor import PowerFactorTable, StandardPolicy
from consumers.billing.prepaid import PrepaidPolicy
from consumers.billing.tariff import ClassPolicy, FloatPolicy
from consumers.billing.validity import ArchiveError, Dated, Value, check_validity, in_force

D = TypeVar("D", bound=Dated)


class PolicyBook(Value, frozen=True, kw_only=True):
    """All versions of all policies. Each list may hold several ids (variants) and several versions of each."""

    energy: tuple[EnergyPolicy, ...] = ()
    tariff_class: tuple[ClassPolicy, ...] = ()
    rate_float: tuple[FloatPolicy, ...] = ()
    demand: tuple[DemandPolicy, ...] = ()
    power_factor: tuple[PowerFactorTable, ...] = ()
    power_factor_standard: tuple[StandardPolicy, ...] = ()
    late_fee: tuple[LateFeePolicy, ...] = ()
    prepaid: tuple[PrepaidPolicy, ...] = ()
    disconnect: tuple[DisconnectPolicy, ...] = ()
    crosscheck: tuple[CrossCheckPolicy, ...] = ()
    correction: tuple[CorrectionPolicy, ...] = ()

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            check_validity(getattr(self, name))

    def power_factor_table(self, standard: Decimal, day: date) -> PowerFactorTable:
        """The rate table of a standard (0.90, 0.85, 0.80) on a day."""
        return in_force([table for table in self.power_factor if table.standard == standard], day)


def pick(versions: tuple[D, ...], day: date, id_: str | None = None) -> D:
    """The version in force on a day, of one id where a policy has variants (`disconnect`)."""
    return in_force([version for version in versions if id_ is None or version.id == id_], day)


def read_policies(text: str) -> PolicyBook:
    """A policy book from TOML: a list of tables for each field. Raises ArchiveError."""
    try:
        return msgspec.convert(tomllib.loads(text), PolicyBook)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise ArchiveError(f"policies: {error}") from error


@cache
def default_policies() -> PolicyBook:
    """The book that comes with the package."""
    return read_policies(resources.files("consumers.billing").joinpath("regulations.toml").read_text("utf-8"))
