"""Engineering values -> Data, each exactly as control.md has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, time
from typing import Final

from construct import Construct

from protocols.times import Instants
from wire698.access import ActionRequestNormal, GetRequestNormal, GetRequestNormalList, SetRequestNormal
from wire698.data import DATA, OMD, OPTIONAL_TIME_TAG
from wire698.notation import Octets, on_wire, record
from wire698.pieces import PIID, ClientApdu
from wire698.values import BitString, Data, Oad, Omd, Piid, Tag, TimeTag

from .arguments import instant_of
from .errors import bad

NO_PIID: Final = Piid(0)
FIRST_GROUP: Final = 0x2301
GROUPS: Final = 8
"""Aggregation groups 总加组: OI 2301..2308."""
MESSAGE_OCTETS: Final = 200
"""Longest text of 8002, 8003, 8004 (control.md 3, 4)."""


# --- Data ---------------------------------------------------------------------------------------------------------


def structure(*members: Data) -> Data:
    return Data(Tag.STRUCTURE, members)


def array(items: Iterable[Data]) -> Data:
    return Data(Tag.ARRAY, tuple(items))


def unsigned(value: int) -> Data:
    return Data(Tag.UNSIGNED, value)


def enum(value: int) -> Data:
    return Data(Tag.ENUM, value)


def long64(value: int) -> Data:
    """A power, energy or amount, already in units of 10^-4."""
    return Data(Tag.LONG64, value)


def group_oi(group: int) -> Data:
    """The OI of aggregation group 1..8."""
    return Data(Tag.OI, FIRST_GROUP + group - 1)


def bits(numbers: Iterable[int], *, lsb_first: bool = False, count: int = 8) -> Data:
    """A bit-string in which the bits `numbers` (0 the first) are set; the first is 80H, or 01H for `lsb_first`."""
    octets = bytearray(count // 8)
    for number in numbers:
        octets[number // 8] |= 1 << (number % 8) if lsb_first else 0x80 >> (number % 8)
    return Data(Tag.BIT_STRING, BitString(count, bytes(octets)))


def numbers_of(octets: bytes, count: int, *, lsb_first: bool) -> list[int]:
    """The bits (0 the first) that are set: the reverse of `bits`."""
    return [n for n in range(count) if octets[n // 8] & (1 << (n % 8) if lsb_first else 0x80 >> (n % 8))]


def hours(numbers: Iterable[int], *, lsb_first: bool) -> Data:
    """Alarm hours 告警时段: 24 bits in an octet-string(3), one an hour."""
    value: BitString = bits(numbers, lsb_first=lsb_first, count=24).value
    return Data(Tag.OCTET_STRING, value.octets)


def half_hours(levels: Sequence[int]) -> Data:
    """8101 功控时段: 48 levels of 2 bits; half-hour k in element k/4, from its least significant bits."""
    return array(
        unsigned(sum(level << 2 * place for place, level in enumerate(levels[first : first + 4])))
        for first in range(0, 48, 4)
    )


def gbk(text: str, place: str, most: int = MESSAGE_OCTETS) -> Data:
    """Text 中文信息 as a visible-string in GBK of at most `most` octets. Raises Invalid."""
    for number, character in enumerate(text):
        if (ord(character) < 0x20 and character != "\n") or ord(character) == 0x7F:
            raise bad(place, f"character {number + 1} is a control character")
    try:
        octets = text.encode("gbk")
    except UnicodeEncodeError as error:
        raise bad(place, f"{text[error.start]!r}, character {error.start + 1}, is not in GBK") from None
    if not 1 <= len(octets) <= most:
        raise bad(place, f"text of 1 to {most} octets in GBK expected, this is {len(octets)} octets")
    return Data(Tag.VISIBLE_STRING, octets)


def date_time_s(value: int | datetime, place: str, instants: Instants) -> bytes:
    """The 7 octets of an instant, ms or read by `instant_of`; a time without an offset is the terminal's own."""
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            octets = value.year.to_bytes(2) + bytes(value.timetuple()[1:6])
            if not 1970 <= value.year < 2100:
                raise bad(place, f"a year of 1970 to 2099 expected, got {value.year}")
            return octets
        value = int(value.timestamp() * 1000)  # exact arithmetic for one with an offset: no error is possible
    if not 0 <= value < 4_102_444_800_000:
        raise bad(place, f"an instant of 1970 to 2099 expected, got {value} ms since 1970 UTC")
    return instants.date_time_s(value)


def instant(value: object, place: str, instants: Instants) -> bytes:
    """The 7 octets of an instant as a caller writes it."""
    return date_time_s(instant_of(value, place), place, instants)


def today_at(clock: time, now_ms: int, instants: Instants) -> bytes:
    """The 7 octets of a time of the terminal's present day."""
    return instants.date_time_s(now_ms)[:4] + bytes((clock.hour, clock.minute, 0))


def tsa(digits: str, place: str) -> bytes:
    """A meter's address as TSA: descriptor octet (length - 1), then the address as printed (wire.md c.1)."""
    if not (digits.isascii() and digits.isdecimal() and 1 <= len(digits) <= 32):
        raise bad(place, f"a meter address of 1 to 32 digits expected, got {digits[:60]!r}")
    octets = bytes.fromhex(digits + "F" * (len(digits) & 1))
    return bytes((len(octets) - 1,)) + octets


# --- requests -----------------------------------------------------------------------------------------------------


class _Parameters(Construct):  # type: ignore[misc] # construct has no types
    """Data one after another, up to the time tag, which is absent."""

    def _parse(self, stream: Octets, context: object, path: str) -> tuple[Data, ...]:
        found = []
        while stream.left() > 1:
            found.append(DATA._parse(stream, context, path))
        return tuple(found)

    def _build(self, obj: tuple[Data, ...], stream: Octets, context: object, path: str) -> tuple[Data, ...]:
        for item in obj:
            DATA._build(item, stream, context, path)
        return obj


@record
class ActionRequestBare(ClientApdu):
    """ACTION whose parameter is not one Data but several, for terminals that want it so (quirk structured_parameters).

    It is no service of the standard, so the model does not read it back as one; `WIRE` does.
    """

    piid: Piid = on_wire(PIID, "序号及优先标志")
    omd: Omd = on_wire(OMD, "对象方法描述符")
    params: tuple[Data, ...] = on_wire(_Parameters(), "方法参数")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


ActionRequestBare.SERVICE, ActionRequestBare.HEAD, ActionRequestBare.ZH = (
    ActionRequestNormal.SERVICE,
    ActionRequestNormal.HEAD,
    ActionRequestNormal.ZH,
)


def omd(oi: int, method: int) -> Omd:
    return Omd(oi << 16 | method << 8)


def oad(oi: int, attribute: int, index: int = 0) -> Oad:
    return Oad(oi << 16 | attribute << 8 | index)


def action(target: Omd, param: Data) -> ActionRequestNormal:
    return ActionRequestNormal(NO_PIID, target, param)


def action_of(target: Omd, members: Sequence[Data], *, structured: bool) -> ClientApdu:
    """ACTION with a structure of `members`, or with the bare members."""
    if structured:
        return action(target, structure(*members))
    return ActionRequestBare(NO_PIID, target, tuple(members))


def setting(target: Oad, value: Data) -> SetRequestNormal:
    return SetRequestNormal(NO_PIID, target, value)


def get(*oads: Oad) -> ClientApdu:
    """GET of one attribute, or of a list."""
    return GetRequestNormal(NO_PIID, oads[0]) if len(oads) == 1 else GetRequestNormalList(NO_PIID, oads)
