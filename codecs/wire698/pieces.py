"""What APDUs are made of: results, records, follow reports, and the table of services (wire.md b.1, b.2, b.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from construct import Construct

from .data import (
    DATA,
    OAD,
    RCSD,
    Bool,
)
from .notation import (
    LENGTH,
    BuildError,
    Choice,
    Octets,
    Optional,
    SequenceOf,
    Uint,
    on_wire,
    parse_node,
    record,
    wire,
)
from .rows import EMPTY, Row, Table
from .values import (
    Dar,
    Data,
    Oad,
    Piid,
    Rcsd,
    Road,
    TimeTag,
    columns_of,
)

PIID = Uint("B", "PIID", Piid)
DAR = Uint("B", "DAR", Dar)
BOOL_OCTET = Bool()


class Apdu:
    """Common to all APDUs. `SERVICE` is the service's name, `HEAD` its first octets, `ZH` its Chinese name."""

    __slots__ = ()
    SERVICE: ClassVar[str]
    HEAD: ClassVar[bytes]
    ZH: ClassVar[str]
    WIRE: ClassVar[Construct]


SERVICES: dict[bytes, type[Apdu]] = {}
BY_NAME: dict[str, type[Apdu]] = {}
WITH_KINDS: set[int] = set()
"""First octets of the services whose second octet is a kind."""

A = TypeVar("A", bound=type[Apdu])


def service(head: str, name: str, zh: str) -> Callable[[A], A]:
    """Enter a class under its first octets (hexadecimal) and its name."""

    def enter(kind: A) -> A:
        kind.SERVICE, kind.HEAD, kind.ZH = name, bytes.fromhex(head), zh
        SERVICES[kind.HEAD] = kind
        BY_NAME[name] = kind
        if len(kind.HEAD) == 2:
            WITH_KINDS.add(kind.HEAD[0])
        return kind

    return enter


# --- pieces (b.6) -------------------------------------------------------------------------------------------------


class _ValueBlock(Construct):
    """Data <-> a Row of one column."""

    def _parse(self, stream: Octets, context: Any, path: str) -> Row:
        return Row.of((DATA._parse(stream, context, path),))

    def _build(self, obj: Row, stream: Octets, context: Any, path: str) -> Row:
        DATA._build(obj.data, stream, context, path)
        return obj


RESULT = Choice(
    "Get-Result",
    {0: DAR, 1: _ValueBlock()},
    lambda _, value: value,
    lambda obj: (0, obj) if isinstance(obj, Dar) else (1, obj),
)


@record
class ResultNormal:
    """A-ResultNormal 对象属性及结果: a Row of one column, or why there is none."""

    oad: Oad = on_wire(OAD, "对象属性描述符")
    result: Row | Dar = on_wire(RESULT, "结果")

    @property
    def data(self) -> Data | None:
        """The value, None where the terminal gave a DAR."""
        return self.result.data if isinstance(self.result, Row) else None


RESULT_NORMAL: Construct = wire(ResultNormal)


class ResultRecord(NamedTuple):
    """A-ResultRecord 对象属性及记录数据: columns and rows, or why there are none.

    `flat`: a ROAD column stands for one value per related OAD (the rule); else for one Data (seen, wire.md b.6).
    """

    oad: Oad
    rcsd: Rcsd
    result: Table | Dar
    flat: bool = True

    @property
    def table(self) -> Table:
        """The rows; none where the terminal gave a DAR."""
        return self.result if isinstance(self.result, Table) else EMPTY


class RowsBlock(Construct):
    """Count, then rows of as many Data as there are columns."""

    def __init__(self, columns: list[str]) -> None:
        super().__init__()
        self._columns = columns

    def _parse(self, stream: Octets, context: Any, path: str) -> Table:
        count = LENGTH._parse(stream, context, path)
        if count and not self._columns:
            raise stream.refuse(f"{count} rows of a record without columns")
        if count * len(self._columns) > stream.left():
            raise stream.refuse(f"{count} rows of {len(self._columns)} columns announced, {stream.left()} octets left")
        rows = []
        for number in range(count):
            if stream.trace is None:
                row = [DATA._parse(stream, context, path) for _ in self._columns]
            else:
                row = parse_node(_TracedRow(self._columns), stream, context, path, f"row {number + 1}", "记录")
            rows.append(Row.of(tuple(row)))
        return Table.of(rows)


class _TracedRow(Construct):
    def __init__(self, columns: list[str]) -> None:
        super().__init__()
        self._columns = columns

    def _parse(self, stream: Octets, context: Any, path: str) -> list[Data]:
        return [parse_node(DATA, stream, context, path, column) for column in self._columns]


class RecordResultBlock(Construct):
    """OAD, RCSD, then 00 DAR or 01 rows."""

    def _parse(self, stream: Octets, context: Any, path: str) -> ResultRecord:
        oad = parse_node(OAD, stream, context, path, "oad", "记录型对象")
        rcsd: Rcsd = parse_node(RCSD, stream, context, path, "rcsd", "记录列选择")
        choice = stream.octet("Get-Record-Result")
        if choice == 0:
            return ResultRecord(oad, rcsd, parse_node(DAR, stream, context, path, "dar", "错误信息"))
        if choice != 1:
            raise stream.refuse(f"record result choice {choice}: 0 or 1 expected")
        if stream.flat:
            columns = [str(column) for _, column in columns_of(rcsd)]
        else:
            columns = [str(csd.oad if isinstance(csd, Road) else csd) for csd in rcsd]
        table = parse_node(RowsBlock(columns), stream, context, path, "rows", "记录数据")
        return ResultRecord(oad, rcsd, table, flat=stream.flat or not _nested_differs(rcsd))

    def _build(self, obj: ResultRecord, stream: Octets, context: Any, path: str) -> ResultRecord:
        OAD._build(obj.oad, stream, context, path)
        RCSD._build(obj.rcsd, stream, context, path)
        if isinstance(obj.result, Dar):
            stream.write(bytes((0, obj.result)))
            return obj
        stream.write(b"\x01")
        rows = obj.result.rows
        LENGTH._build(len(rows), stream, context, path)
        width = len(columns_of(obj.rcsd)) if obj.flat else len(obj.rcsd)
        for row in rows:
            columns = row.columns
            if len(columns) != width:
                raise BuildError(f"a row of {width} columns expected, not {len(columns)}")
            for data in columns:
                DATA._build(data, stream, context, path)
        return obj


def _nested_differs(rcsd: Rcsd) -> bool:
    return any(isinstance(csd, Road) and len(csd.oads) != 1 for csd in rcsd)


RESULT_RECORD = RecordResultBlock()


class Records(tuple[ResultRecord, ...]):
    """Results of records. The type tells an empty one from an empty tuple of ResultNormal, as the wire does."""

    __slots__ = ()


FollowReport: TypeAlias = tuple[ResultNormal, ...] | tuple[ResultRecord, ...]


def results_decode(number: int, items: Any) -> Any:
    """What a choice of results holds: 1 normal results, 2 records."""
    return Records(items) if number == 2 else items


def results_encode(items: FollowReport) -> tuple[int, Any]:
    """The number of the choice for these results, and they."""
    return (2 if holds_records(items) else 1), items


def holds_records(items: FollowReport) -> bool:
    """Whether results are of records, even when there are none."""
    return isinstance(items, Records) or (bool(items) and isinstance(items[0], ResultRecord))


FOLLOW = Optional(
    Choice(
        "FollowReport",
        {1: SequenceOf(RESULT_NORMAL), 2: SequenceOf(RESULT_RECORD)},
        results_decode,
        results_encode,
    ),
    tail=True,
)


class AnyApdu(Apdu):
    __slots__ = ()
    piid: Piid


class ClientApdu(AnyApdu):
    """An APDU of the master 主站: ends in an optional time tag."""

    __slots__ = ()
    timetag: TimeTag | None


class ServerApdu(AnyApdu):
    """An APDU of the terminal: ends in an optional follow report 跟随上报 and an optional time tag."""

    __slots__ = ()
    follow: FollowReport | None
    timetag: TimeTag | None
