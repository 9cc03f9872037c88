"""Audit 审计: the canonical form of inputs, bill keys, versions, reversal and correction. Rule A.16.

Equal inputs have equal bytes and so one hash, whatever store they came from: decimals lose trailing zeros, instants are
UTC, keys are sorted, a field at its default is left out (a later field with a default changes no old hash).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from functools import cache
from typing import Any

import msgspec

from consumers.billing.decimals import EXACT, HUNDRED, ZERO, plain, product, quotient, total
from consumers.billing.tariff import Line
from consumers.billing.validity import Dated, Value


def _plain_value(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return value.name if isinstance(value, int) else value.value
    if isinstance(value, (str, int)):
        return value
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value} names no zone")
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    if isinstance(value, msgspec.Struct):
        items = ((field, getattr(value, field.name)) for field in _fields(type(value)))
        return {field.name: _plain_value(item) for field, item in items if not _is_default(field, item)}
    if isinstance(value, Mapping):
        return {str(_plain_value(key)): _plain_value(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain_value(item) for item in value), key=_text)
    if isinstance(value, (list, tuple)):
        return [_plain_value(item) for item in value]
    raise TypeError(f"no canonical form for {type(value).__name__}: binary floats have no place here")


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _is_default(field: msgspec.structs.FieldInfo, value: Any) -> bool:
    if field.default is not msgspec.NODEFAULT:
        return type(value) is type(field.default) and bool(value == field.default)
    return field.default_factory is not msgspec.NODEFAULT and not value


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def canonical(value: Any) -> bytes:
    """The one text of a value, UTF-8 JSON. Raises TypeError for a binary float, ValueError for a time without zone."""
    return _text(_plain_value(value)).encode()


def input_hash(value: Any) -> str:
    """`sha256(canonical JSON)` of all that a bill is computed from (A54), 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def bill_key(account: str, period: str, kind: str) -> str:
    """`account|period|kind`: what makes it the same bill."""
    for part in (account, period, kind):
        if not part or "|" in part:
            raise ValueError(f"not a part of a bill key: {part!r}")
    return f"{account}|{period}|{kind}"


class RowKind(StrEnum):
    """What a row of the bill ledger says."""

    BILL = "bill"
    REVERSAL = "reversal"
    """红字冲销: minus the row that it refers to."""


class RowStatus(StrEnum):
    """Whether it may still be replaced."""

    DRAFT = "draft"
    ISSUED = "issued"
    """已发行: append-only from here on."""


class BillRow(Value, frozen=True, kw_only=True):
    """A row of the ledger of one bill key. `refers_to`: the version that a reversal takes back."""

    key: str
    version: int
    kind: RowKind
    status: RowStatus
    input_hash: str
    lines: tuple[Line, ...]
    total: Decimal
    refers_to: int | None = None


class Outcome(StrEnum):
    """What settling a computed bill did."""

    UNCHANGED = "unchanged"
    """Same key, same hash: the stored bill stands; no row, no message."""
    NEW = "new"
    REPLACED = "replaced"
    """A draft gave way."""
    CORRECTED = "corrected"
    """An issued bill was reversed and a new one entered."""


class Settlement(Value, frozen=True, kw_only=True):
    """`row`: the bill that stands now. `append`: rows to add, in this order. `drop`: version of the draft to remove."""

    outcome: Outcome
    row: BillRow
    append: tuple[BillRow, ...] = ()
    drop: int | None = None


def standing(rows: Sequence[BillRow]) -> BillRow | None:
    """The bill of these rows that was not reversed; None if there is none."""
    reversed_versions = {row.refers_to for row in rows if row.kind is RowKind.REVERSAL}
    bills = [row for row in rows if row.kind is RowKind.BILL and row.version not in reversed_versions]
    return max(bills, key=lambda row: row.version, default=None)


def net(rows: Sequence[BillRow]) -> Decimal:
    """What all rows of a key sum to (A53)."""
    return total(row.total for row in rows)


def reversal(row: BillRow, version: int) -> BillRow:
    """红字: every line and the total with the other sign."""
    lines = tuple(
        msgspec.structs.replace(item, qty=EXACT.minus(item.qty), amount=EXACT.minus(item.amount)) for item in row.lines
    )
    return BillRow(
        key=row.key,
        version=version,
        kind=RowKind.REVERSAL,
        status=RowStatus.ISSUED,
        input_hash=row.input_hash,
        lines=lines,
        total=EXACT.minus(row.total),
        refers_to=row.version,
    )


def settle(
    rows: Sequence[BillRow], key: str, hash_: str, lines: Sequence[Line], *, status: RowStatus = RowStatus.DRAFT
) -> Settlement:
    """Enter a computed bill beside the stored `rows` of its key (A.16, A53).

    Same hash: unchanged, except that a draft is issued when `status` asks for it. Another hash: a draft is replaced, an
    issued bill is reversed and entered anew as issued. Versions only rise.
    """
    if any(row.key != key for row in rows):
        raise ValueError(f"rows of another bill than {key}")
    current = standing(rows)
    version = max((row.version for row in rows), default=0) + 1
    if current is not None and current.input_hash == hash_:
        if current.status is RowStatus.DRAFT and status is RowStatus.ISSUED:
            row = msgspec.structs.replace(current, version=version, status=status)
            return Settlement(outcome=Outcome.REPLACED, row=row, append=(row,), drop=current.version)
        return Settlement(outcome=Outcome.UNCHANGED, row=current)
    amount = total(item.amount for item in lines)

    def entry(number: int, as_status: RowStatus) -> BillRow:
        return BillRow(
            key=key,
            version=number,
            kind=RowKind.BILL,
            status=as_status,
            input_hash=hash_,
            lines=tuple(lines),
            total=amount,
        )

    if current is None:
        row = entry(version, status)
        return Settlement(outcome=Outcome.NEW, row=row, append=(row,))
    if current.status is RowStatus.DRAFT:
        row = entry(version, status)
        return Settlement(outcome=Outcome.REPLACED, row=row, append=(row,), drop=current.version)
    red = reversal(current, version)
    row = entry(version + 1, RowStatus.ISSUED)
    return Settlement(outcome=Outcome.CORRECTED, row=row, append=(red, row))


class CorrectionPolicy(Dated, frozen=True, kw_only=True):
    """When a late better reading of a closed period corrects its bill."""

    least: Decimal
    """A smaller difference opens nothing."""
    auto_percent: Decimal
    auto_amount: Decimal
    """Without approval only up to both of these."""


class Correction(StrEnum):
    """What a recomputed closed period leads to."""

    NONE = "none"
    AUTOMATIC = "automatic"
    APPROVAL = "approval"


def judge_correction(old: Decimal, new: Decimal, policy: CorrectionPolicy) -> Correction:
    """By the difference of the totals, yuan: below `least` none, automatic up to percent and amount, else approval."""
    change = EXACT.subtract(new, old).copy_abs()
    if change < policy.least:
        return Correction.NONE
    limit = quotient(product(old.copy_abs(), policy.auto_percent), HUNDRED) if old else ZERO
    small = change <= limit and change <= policy.auto_amount
    return Correction.AUTOMATIC if small else Correction.APPROVAL
