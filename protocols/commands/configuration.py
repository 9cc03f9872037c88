"""Configuration 设置: parameters, clock, messages, reporting, and any APDU that controls nothing."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

from wire698 import catalogue, model
from wire698.access import SetItem, SetRequestNormalList
from wire698.catalogue import ColumnInfo, column
from wire698.errors import WireError
from wire698.forms import FormError, data_of
from wire698.notation import BuildError
from wire698.pieces import ClientApdu
from wire698.values import BitString, Data, Oad, Piid, Tag

from .arguments import (
    Arguments,
    flag_of,
    items_of,
    nearest,
    octets_of,
    scaled_of,
    shown,
    text_of,
    unsupported,
    whole_of,
)
from .context import Context, Made
from .encoding import NO_PIID, action, action_of, array, enum, gbk, instant, oad, omd, setting, unsigned
from .errors import Invalid, bad
from .passages import READS, carried, hidden_control, more_than_reading, sendable, sets_control
from .plans import Step
from .points import oad_of

WRITE = ("oad", "value")
SET_CLOCK = ("broadcast",)
MESSAGE = ("level", "number", "text")
DELETE_MESSAGE = ("level", "number")
CONFIGURE_REPORTING = ("active", "follow", "channels", "events")
APDU = ("hex",)

CLOCK: Final = Oad(0x40000200)
LEVELS: Final = {"normal": 0x8003, "important": 0x8004}
"""一般 and 重要中文信息."""
CHANNELS: Final = 16
_FLAGS: Final = ("none", "occurrence", "recovery", "both")
"""Report flag 上报标识 of an event (reports.md 3.1)."""
_APDU_OCTETS: Final = 4096


# --- write --------------------------------------------------------------------------------------------------------


def write(args: Arguments, context: Context) -> Made:
    """`write` 设置: one attribute.

    oad: name or OAD. value: {"t": type, "v": value}, or a plain value where the catalogue knows one simple type for it:
    then a number is in engineering units.
    """
    target: Oad = args.read("oad", oad_of)
    if sets_control(target):
        raise Invalid("wrong_class", args.at("oad"), f"{target} controls: use the control verb for it")
    value = args.read("value", lambda form, place: value_of(target, form, place, context))
    return Made((Step(setting(target, value), label="write"),))


def value_of(target: Oad, form: Any, place: str, context: Context) -> Data:
    """The Data for an attribute. Raises Invalid where it takes a type that the caller must name."""
    if isinstance(form, dict):
        try:
            return data_of(form)
        except FormError as error:
            raise bad(place, str(error)) from None
    info = column(target)
    parts = _simple_type(info)
    if parts is None:
        known = info.attribute.data_type if info.attribute is not None else "not in the catalogue"
        raise bad(place, f'{info.name} ({known}) needs its type: {{"t": "long-unsigned", "v": 5}}')
    listed, tag, size = parts
    if not listed or target.index:
        return _of_tag(tag, form, place, info, size, context)
    count = info.info.element_count if info.info is not None and target.attribute == info.info.value_attribute else ""
    fixed = int(count) if count.isdecimal() and int(count) > 1 else None
    items = items_of(
        form, place, lambda item, at: _of_tag(tag, item, at, info, size, context), fixed or 0, fixed or 255
    )
    return array(items)


_TYPE: Final = re.compile(r"(array of )?([a-z_-]+[0-9]*(?:-unsigned)?|OAD|OI)(?:\((?:<=)?(\d+)\))?(?: ?\{.*\})?")
_RANGES: Final = {
    Tag.UNSIGNED: (0, 0xFF),
    Tag.ENUM: (0, 0xFF),
    Tag.LONG_UNSIGNED: (0, 0xFFFF),
    Tag.DOUBLE_LONG_UNSIGNED: (0, 0xFFFFFFFF),
    Tag.LONG64_UNSIGNED: (0, (1 << 64) - 1),
    Tag.INTEGER: (-0x80, 0x7F),
    Tag.LONG: (-0x8000, 0x7FFF),
    Tag.DOUBLE_LONG: (-0x80000000, 0x7FFFFFFF),
    Tag.LONG64: (-(1 << 63), (1 << 63) - 1),
}
_SIMPLE: Final = frozenset(
    {*_RANGES, Tag.BOOL, Tag.BIT_STRING, Tag.OCTET_STRING, Tag.VISIBLE_STRING, Tag.DATE_TIME_S, Tag.OAD, Tag.OI}
)
_LABELS: Final = {tag.label: tag for tag in _SIMPLE}


def _simple_type(info: ColumnInfo) -> tuple[bool, Tag, int | None] | None:
    """(whether an array, type, size) of an attribute that the catalogue knows well; None for any other."""
    if info.attribute is None or info.attribute.status or info.feature is not None:
        return None
    match = _TYPE.fullmatch(info.attribute.data_type)
    tag = _LABELS.get(match[2]) if match is not None else None
    if match is None or tag is None:
        return None
    return match[1] is not None, tag, int(match[3]) if match[3] else None


def _of_tag(tag: Tag, form: Any, place: str, info: ColumnInfo, size: int | None, context: Context) -> Data:
    if tag in _RANGES:
        least, most = _RANGES[tag]
        if not info.scale:
            return Data(tag, whole_of(form, place, least, most))
        number = scaled_of(form, place, info.scale, info.unit or "", -(10**14), 10**14)
        if not least <= number <= most:
            raise bad(place, f"{shown(form)} does not fit in {tag.label}")
        return Data(tag, number)
    match tag:
        case Tag.BOOL:
            return Data(tag, flag_of(form, place))
        case Tag.DATE_TIME_S:
            return Data(tag, instant(form, place, context.instants))
        case Tag.OAD:
            return Data(tag, oad_of(form, place))
        case Tag.OI:
            return Data(tag, oad_of(form, place).oi)
        case Tag.VISIBLE_STRING:
            return gbk(text_of(form, place), place, size or 255)
        case Tag.BIT_STRING:
            return _bits(text_of(form, place), place, size)
        case _:
            return Data(Tag.OCTET_STRING, octets_of(form, place, size or 255))


def _bits(text: str, place: str, size: int | None) -> Data:
    if not text or not {"0", "1"}.issuperset(text) or (size is not None and len(text) != size):
        raise bad(place, f"{size or 'some'} bits as 0 and 1 expected, first bit first, got {shown(text)}")
    count = (len(text) + 7) // 8
    return Data(Tag.BIT_STRING, BitString(len(text), int(text.ljust(8 * count, "0"), 2).to_bytes(count)))


# --- clock, messages ----------------------------------------------------------------------------------------------


def set_clock(args: Arguments, context: Context) -> Made:
    """`set_clock` 对时: the terminal's clock to the instant of planning, so plan at the moment of sending.

    broadcast: by the method that has no answer, for a group or broadcast address (false).
    """
    now = Data(Tag.DATE_TIME_S, context.instants.date_time_s(context.now_ms))
    apdu: ClientApdu = setting(CLOCK, now)
    if args.flag("broadcast", False):
        apdu = action(omd(0x4000, 127), now)
    # Sent again it would set a time that has passed.
    return Made((Step(apdu, retries=0, label="set clock"),))


def message(args: Arguments, context: Context) -> Made:
    """`message` 中文信息: a text on the terminal's display.

    level: normal or important. number: 0..255, names it for `delete_message`. text: 1..200 octets in GBK.
    """
    oi = LEVELS[args.word("level", tuple(LEVELS))]
    members = (
        unsigned(args.whole("number", 0, 255)),
        Data(Tag.DATE_TIME_S, context.instants.date_time_s(context.now_ms)),
        args.read("text", lambda value, place: gbk(text_of(value, place), place)),
    )
    apdu = action_of(omd(oi, 127), members, structured=context.quirks.structured_parameters)
    return Made((Step(apdu, retries=0, label="message"),))


def delete_message(args: Arguments, context: Context) -> Made:  # noqa: ARG001 - as all verbs
    """`delete_message`: level, number as in `message`."""
    oi = LEVELS[args.word("level", tuple(LEVELS))]
    apdu = action(omd(oi, 128), unsigned(args.whole("number", 0, 255)))
    return Made((Step(apdu, retries=0, label="delete message"),))


# --- reporting ----------------------------------------------------------------------------------------------------


def configure_reporting(args: Arguments, context: Context) -> Made:
    """`configure_reporting` 上报: who may report what, in one SET.

    active: 允许主动上报 (4300 attribute 8). follow: 允许跟随上报 (attribute 7).
    channels: 上报通道, OADs (attribute 10).
    events: [{event: slug or OI, report: none|occurrence|recovery|both (both)}] 上报标识.
    """
    items: list[SetItem] = []
    for name, attribute in (("active", 8), ("follow", 7)):
        if name in args:
            items.append(SetItem(oad(0x4300, attribute), Data(Tag.BOOL, args.flag(name))))
    if "channels" in args:
        channels = args.items("channels", oad_of, CHANNELS)
        items.append(SetItem(oad(0x4300, 10), array(Data(Tag.OAD, channel) for channel in channels)))
    items.extend(args.items("events", _event_flag, context.limits.events, []))
    if not items:
        raise bad(args.place, f"one of {', '.join(CONFIGURE_REPORTING)} expected")
    apdu: ClientApdu = SetRequestNormalList(NO_PIID, tuple(items))
    if len(items) == 1:
        apdu = setting(items[0].oad, items[0].value)
    return Made((Step(apdu, label="configure reporting"),))


def _event_flag(value: Any, place: str) -> SetItem:
    args = Arguments(value, place, ("event", "report"))
    oi = args.read("event", _event_of)
    info = catalogue.lookup(oi)
    # The flag is attribute 8 of a single-table event (class 7), 11 of one with a table for each phase (class 24).
    attribute = 11 if info is not None and info.interface_class == 24 else 8
    return SetItem(oad(oi, attribute), enum(_FLAGS.index(args.word("report", _FLAGS, "both"))))


def _event_of(value: Any, place: str) -> int:
    name = text_of(value, place)
    digits = name.removeprefix("event:")
    if re.fullmatch(r"3[0-9A-Fa-f]{3}", digits) and catalogue.event(int(digits, 16)) is not None:
        return int(digits, 16)
    events = {info.slug: info.oi for info in catalogue.objects() if catalogue.event(info.oi) is not None}
    if name not in events:
        hint = nearest(name[:60], tuple(events))
        raise bad(place, f"no event {shown(name)}{hint if hint.startswith('; did') else ''}")
    return events[name]


# --- any APDU -----------------------------------------------------------------------------------------------------


def apdu(args: Arguments, context: Context) -> Made:
    """`apdu`: an APDU of the master, as it stands but for its invoke number.

    hex: its octets. One that acts on a load is refused: there is a control verb for it.
    """
    place = args.at("hex")
    octets: bytes = args.read("hex", lambda value, at: octets_of(value, at, _APDU_OCTETS))
    try:
        parsed = model.parse(octets).apdu
        if not isinstance(parsed, ClientApdu) or not sendable(parsed):
            name = parsed.SERVICE
            raise unsupported(
                place, f"{name} is no request that may be sent: GET, SET, ACTION, PROXY, CONNECT, RELEASE"
            )
        again = model.build(parsed)
    except WireError as error:
        raise bad(place, f"no APDU: at octet {error.offset}: {error.reason}") from None
    except BuildError as error:
        raise bad(place, f"no APDU that can be sent: {error}") from None
    found = hidden_control(parsed)
    if found is not None:
        raise Invalid("wrong_class", place, f"{found} controls: use the control verb for it")
    through = carried(parsed)
    if through is not None and context.limits.transparent != "any":
        inside = more_than_reading(through)
        if inside is not None:
            raise unsupported(place, f"only reading may go through to a meter; here is {inside}")
    parsed = model.parse(again).apdu  # oddities of the octets given are not sent on
    assert isinstance(parsed, ClientApdu)
    numbered = dataclasses.replace(parsed, piid=Piid(parsed.piid & 0x80))  # type: ignore[type-var]
    return Made((Step(numbered, retries=None if isinstance(parsed, READS) else 0, label="apdu"),))
