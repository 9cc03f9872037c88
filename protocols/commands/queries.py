"""Queries 查询: reading attributes, records and meters, and sending octets through to a meter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from wire698.access import GetRecord, GetRequestRecord, GetRequestRecordList
from wire698.pieces import ClientApdu
from wire698.proxy import (
    ProxyGet,
    ProxyGetRequestList,
    ProxyGetRequestRecord,
    ProxyTransCommandRequest,
)
from wire698.values import (
    ALL_METERS,
    NULL,
    Comdcb,
    Data,
    MeterSet,
    Oad,
    RangeSelector,
    Rcsd,
    Rsd,
    Tag,
    Ti,
)

from .arguments import Arguments, octets_of, shown, unsupported
from .context import Context, Made
from .encoding import NO_PIID, action_of, get, instant, omd, tsa
from .errors import bad
from .passages import is_reading, more_than_reading
from .plans import Step
from .points import COLUMNS, column_of, meter_of, oad_of, points_of, port_of

READ = ("points", "meter", "timeout_s", "meter_timeout_s")
READ_METER = ("meter", "points", "timeout_s", "meter_timeout_s")
READ_RECORD = ("object", "last", "nth", "at", "from", "to", "by", "every", "columns", "meters", "meter", "timeout_s")
TRANSPARENT = ("port", "line", "frame", "meter", "timeouts")
_TIMEOUTS: Final = ("wait_s", "octet_ms")

FREEZE_TIME: Final = Oad(0x20210200)
EVENT_START: Final = Oad(0x201E0200)
EVENT_COLUMNS: Final[Rcsd] = tuple(Oad(oi << 16 | 0x0200) for oi in (0x2022, 0x201E, 0x2020, 0x2024, 0x3300))
"""What every event record has (reports.md 3.3): an empty list of columns is not answered by all terminals."""
_UNITS: Final = {"s": 0, "min": 1, "h": 2, "day": 3, "month": 4, "year": 5}
_INTERVAL: Final = re.compile(r"(\d{1,5}) ?(s|min|h|day|month|year)")
_AT: Final = {"start": 4, "store": 5}
_RANGES: Final = {"start": 6, "store": 7, "success": 8}


def read(args: Arguments, context: Context) -> Made:
    """`read`: attributes of the terminal, or through it of a meter.

    points: names or OADs. meter: address, then as `read_meter`.
    """
    points = args.read("points", lambda value, place: points_of(value, place, context.limits.points))
    if "meter" in args:
        return _of_meter(args, points, context)
    for name in ("timeout_s", "meter_timeout_s"):
        if name in args:
            raise bad(args.at(name), "only with a meter, for which the terminal waits so long")
    return Made((Step(get(*points), label="read"),))


def read_meter(args: Arguments, context: Context) -> Made:
    """`read_meter` 代理读取: attributes of a meter behind the terminal.

    meter: its address. points: names or OADs. timeout_s: s that the terminal may take, 1..600 (30);
    meter_timeout_s: of these for the meter itself (the same).
    """
    points = args.read("points", lambda value, place: points_of(value, place, context.limits.points))
    return _of_meter(args, points, context)


def _of_meter(args: Arguments, points: tuple[Oad, ...], context: Context) -> Made:
    target = tsa(args.read("meter", lambda value, place: meter_of(value, place, context.meters)), args.at("meter"))
    timeout = _timeout(args, context)
    # A target's own timeout of 0 would mean the overall one (wire.md b.11), but not to every terminal (gaps.md 1.9).
    of_meter = args.whole("meter_timeout_s", 1, timeout, timeout, "s")
    apdu = ProxyGetRequestList(NO_PIID, timeout, (ProxyGet(target, of_meter, points),))
    return Made((Step(apdu, timeout + context.limits.reply_margin_s, label="read meter"),))


def _timeout(args: Arguments, context: Context) -> int:
    timeout: int = args.whole("timeout_s", 1, 600, context.limits.proxy_timeout_s, "s")
    return timeout


def read_record(args: Arguments, context: Context) -> Made:
    """`read_record`: rows of a freeze 冻结, of events 事件, or of collected data (`tasks.records`).

    object: name or OAD of the table. One of: last: the latest n rows; nth: the n-th latest row alone; at: the rows of
    an instant; from, to: those of [from, to). by: `store`, `start`, `success`: which time of collected data. every: an
    interval, "15 min". columns: names, or {object, columns}; none: all (of events the usual five). meters: addresses,
    for collected data. meter: the table of a meter behind the terminal; timeout_s.
    """
    table: Oad = args.read("object", oad_of)
    columns: Rcsd = tuple(
        args.items("columns", column_of, COLUMNS, list(EVENT_COLUMNS) if 0x3000 <= table.oi <= 0x32FF else [])
    )
    selectors = _selectors(args, table, context)
    records = [GetRecord(table, selector, columns) for selector in selectors]
    if "meter" in args:
        return _record_of_meter(args, records, context)
    if "timeout_s" in args:
        raise bad(args.at("timeout_s"), "only with a meter, for which the terminal waits so long")
    apdu: ClientApdu = GetRequestRecord(NO_PIID, records[0])
    if len(records) > 1:
        apdu = GetRequestRecordList(NO_PIID, tuple(records))
    return Made((Step(apdu, label="read record"),))


def _record_of_meter(args: Arguments, records: Sequence[GetRecord], context: Context) -> Made:
    target = tsa(args.read("meter", lambda value, place: meter_of(value, place, context.meters)), args.at("meter"))
    timeout = _timeout(args, context)
    return Made(
        tuple(
            Step(
                ProxyGetRequestRecord(NO_PIID, timeout, target, record),
                timeout + context.limits.reply_margin_s,
                label="read record of meter",
            )
            for record in records
        )
    )


def _selectors(args: Arguments, table: Oad, context: Context) -> list[Rsd]:
    """How rows are picked (wire.md c.2): 9, 1, 2 in tables of freezes and events, 4 to 8 and 10 in collected data."""
    ways = [way for way in ("last", "nth", "at", "from") if way in args]
    if len(ways) != 1:
        what = (
            f"{ways[0]} and {ways[1]} exclude each other" if ways else "missing: one of last, nth, at, or from and to"
        )
        raise bad(args.at(ways[1] if ways else "last"), what)
    (way,) = ways
    for name in ("to", "every"):
        if name in args and way != "from":
            raise bad(args.at(name), f"only with from, not with {way}")
    collected = 0x6000 <= table.oi <= 0x60FF
    if not collected:
        for name in ("by", "meters"):
            if name in args:
                raise bad(args.at(name), "only for collected data (tasks.records)")
    if collected:
        return [_of_collected(args, way, context)]
    if way == "last":
        count = args.whole("last", 1, context.limits.records)
        return [Rsd(9, last=number) for number in range(1, count + 1)]
    if way == "nth":
        return [Rsd(9, last=args.whole("nth", 1, 255))]
    key = EVENT_START if 0x3000 <= table.oi <= 0x32FF else FREEZE_TIME

    def time_of(name: str) -> Data:
        return Data(Tag.DATE_TIME_S, _instant(args, name, context))

    if way == "at":
        return [Rsd(1, oad=key, value=time_of("at"))]
    every = args.read("every", _interval, None)
    interval = NULL if every is None else Data(Tag.TI, every)
    start, end = time_of("from"), time_of("to")
    _forward(args, start.value, end.value)
    return [Rsd(2, ranges=(RangeSelector(key, start, end, interval),))]


def _of_collected(args: Arguments, way: str, context: Context) -> Rsd:
    def meter_tsa(value: Any, place: str) -> bytes:
        return tsa(meter_of(value, place, context.meters), place)

    addresses = args.items("meters", meter_tsa, context.limits.meters, None)
    meters = ALL_METERS if addresses is None else MeterSet(3, tuple(addresses))
    if way == "nth":
        raise bad(args.at("nth"), "not for collected data; last gives the latest n")
    if way == "last":
        if "by" in args:
            raise bad(args.at("by"), "not with last")
        return Rsd(10, last=args.whole("last", 1, 255), meters=meters)
    if way == "at":
        selector = _AT[args.word("by", tuple(_AT), "store")]
        return Rsd(selector, at=_instant(args, "at", context), meters=meters)
    selector = _RANGES[args.word("by", tuple(_RANGES), "store")]
    start, end = _instant(args, "from", context), _instant(args, "to", context)
    _forward(args, start, end)
    # An interval must be given here; one minute is the finest that tasks are run at.
    return Rsd(selector, start=start, end=end, interval=args.read("every", _interval, Ti(1, 1)), meters=meters)


def _instant(args: Arguments, name: str, context: Context) -> bytes:
    octets: bytes = args.read(name, lambda value, place: instant(value, place, context.instants))
    return octets


def _forward(args: Arguments, start: bytes, end: bytes) -> None:
    if end <= start:
        raise bad(args.at("to"), "an instant after from expected")


def _interval(value: Any, place: str) -> Ti:
    match = _INTERVAL.fullmatch(value) if isinstance(value, str) and value.isascii() else None
    if match is None or not 1 <= int(match[1]) <= 0xFFFF:
        raise bad(place, f'an interval such as "15 min" (s, min, h, day, month, year) expected, got {shown(value)}')
    return Ti(_UNITS[match[2]], int(match[1]))


# --- transparent --------------------------------------------------------------------------------------------------

_BAUDS: Final = {300: 0, 600: 1, 1200: 2, 2400: 3, 4800: 4, 7200: 5, 9600: 6, 19200: 7, 38400: 8, 57600: 9, 115200: 10}
_PARITIES: Final = ("none", "odd", "even")
_FLOWS: Final = ("none", "hard", "soft")
_LINE_FIELDS: Final = ("baud", "parity", "data_bits", "stop_bits", "flow")
_LINE: Final = re.compile(r"(\d{3,6}|auto)[-, ]([5-8])([NOE])([12])")
DEFAULT_LINE: Final = Comdcb(3, 2, 8, 1, 0)
"""2400 baud, even, 8 data bits, 1 stop bit: what meters of DL/T 645 are set to."""


def line_of(value: Any, place: str) -> Comdcb:
    """Serial settings 端口通信控制块: `2400-8E1`, or {baud, parity, data_bits, stop_bits, flow}."""
    if isinstance(value, str):
        match = _LINE.fullmatch(value) if value.isascii() else None
        if match is None or (match[1] != "auto" and int(match[1]) not in _BAUDS):
            raise bad(place, f"serial settings such as 2400-8E1 expected, got {shown(value)}")
        baud = 255 if match[1] == "auto" else _BAUDS[int(match[1])]
        return Comdcb(baud, "NOE".index(match[3]), int(match[2]), int(match[4]), 0)
    args = Arguments(value, place, _LINE_FIELDS)
    baud_rate = args.whole("baud", 300, 115200, 2400, "baud")
    if baud_rate not in _BAUDS:
        raise bad(args.at("baud"), f"one of {', '.join(map(str, _BAUDS))} expected, got {baud_rate}")
    return Comdcb(
        _BAUDS[baud_rate],
        _PARITIES.index(args.word("parity", _PARITIES, "even")),
        args.whole("data_bits", 5, 8, 8),
        args.whole("stop_bits", 1, 2, 1),
        _FLOWS.index(args.word("flow", _FLOWS, "none")),
    )


def transparent(args: Arguments, context: Context) -> Made:
    """`transparent` 透明转发: octets to a meter and its answer.

    port: rs485-1, plc-1 or an OAD. line: serial settings (2400-8E1). frame: the octets, hexadecimal.
    timeouts: {wait_s: s for the answer (10), octet_ms: ms between octets (100)}.
    meter: its address, for a plc port whose method 127 takes it instead of a line.
    """
    port: Oad = args.read("port", port_of)
    frame: bytes = args.read("frame", lambda value, place: octets_of(value, place, context.limits.frame_octets))
    _check_frame(frame, args.at("frame"), context)
    timeouts = Arguments(args.raw("timeouts", {}), args.at("timeouts"), _TIMEOUTS)
    wait = timeouts.whole("wait_s", 1, 600, 10, "s")
    gap = timeouts.whole("octet_ms", 0, 60_000, 100, "ms")
    answer_s = wait + context.limits.reply_margin_s
    retries = None if is_reading(frame) else 0
    if "meter" in args:
        if port.oi != 0xF209:
            raise bad(args.at("meter"), "only for a plc port, where it is the address of the node")
        if "line" in args:
            raise bad(args.at("line"), "a plc port has none")
        target = tsa(args.read("meter", lambda value, place: meter_of(value, place, context.meters)), args.at("meter"))
        members = (
            Data(Tag.TSA, target),
            Data(Tag.LONG_UNSIGNED, wait),
            Data(Tag.OCTET_STRING, frame),
        )
        plc = action_of(omd(0xF209, 127), members, structured=True)
        return Made((Step(plc, answer_s, retries, "transparent"),))
    line = args.read("line", line_of, DEFAULT_LINE)
    apdu = ProxyTransCommandRequest(NO_PIID, port, line, wait, gap, frame)
    return Made((Step(apdu, answer_s, retries, "transparent"),))


def _check_frame(frame: bytes, place: str, context: Context) -> None:
    if context.limits.transparent == "any":
        return
    found = more_than_reading(frame)
    if found is not None:
        raise unsupported(place, f"only reading may go through to a meter as a query; here is {found}")
    if context.limits.transparent == "reads" and not is_reading(frame):
        raise unsupported(place, "only reading may go through to a meter as a query; this is not known to read")
