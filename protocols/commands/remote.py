"""Remote control 遥控 8000, power guarantee 保电 8001, arrears alarm 催费告警 8002 (control.md 1 to 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from wire698.pieces import ClientApdu
from wire698.values import NULL, Data, Oad, Tag

from .arguments import Arguments, distinct, text_of, unsupported, whole_of
from .context import Context, Made
from .encoding import action, array, enum, gbk, get, hours, oad, omd, structure, unsigned
from .errors import bad
from .expectations import (
    ALARM_STATE,
    ARREARS,
    COMMAND_STATE,
    GUARANTEE,
    RELAY_OUTPUT,
    RELAYS,
    Alarming,
    All,
    Arrears,
    Guarantee,
    Relays,
    group_state,
)
from .plans import Expectation, Step, Verification

TRIP = ("relays",)
CLOSE = ("relays",)
ALARM = ("on",)
POWER_GUARANTEE = ("on", "automatic")
ARREARS_ALARM = ("on", "hours", "text")
_TRIP_RELAY: Final = ("relay", "alarm_delay_min", "limit_min", "auto_close")
_CLOSE_RELAY: Final = ("relay", "mode")
_MODES: Final = ("permit", "direct")


def step(apdu: ClientApdu, label: str) -> Step:
    """A step of a control: never sent twice."""
    return Step(apdu, retries=0, label=label)


def verification(
    expectation: Expectation, context: Context, *sources: ClientApdu, after_s: float = 0, window_s: float | None = None
) -> Verification:
    """Look at `sources`, `after_s` and the time that the terminal needs itself from the answer on."""
    limits = context.limits
    return Verification(
        after_s=after_s + limits.settle_s,
        window_s=limits.window_s if window_s is None else min(window_s, limits.window_s),
        every_s=limits.every_s,
        steps=sources,
        expectation=expectation,
        quirks=context.quirks,
    )


@dataclass(frozen=True, slots=True)
class _Trip:
    relay: int
    delay_min: int
    limit_min: int
    auto_close: bool


def _relays(found: list[Any], args: Arguments, context: Context) -> list[Any]:
    """The entries, by relay in ascending order, each relay once; by place they must be 1, 2, … without a gap."""
    place = args.at("relays")
    distinct([entry.relay for entry in found], place, "relay")
    found = sorted(found, key=lambda entry: entry.relay)
    if not context.quirks.relay_by_index and [entry.relay for entry in found] != list(range(1, len(found) + 1)):
        text = "this terminal counts relays by their place in the list: only 1, or 1 and 2, and so on, can be named"
        raise unsupported(place, text)
    return found


def _relay_oad(relay: int) -> Data:
    """F205 02 nn, nn the relay: the index is always set, so both ways of counting work (control.md 1)."""
    return Data(Tag.OAD, oad(0xF205, 2, relay))


def trip(args: Arguments, context: Context) -> Made:
    """`trip` 跳闸: open relays.

    relays: [{relay: 1..4; alarm_delay_min: 告警延时, 0..255 min; limit_min: 限电时间, 0..65535 min, 0 until closed (0);
    auto_close: 自动合闸 (false)}].
    """
    unit = context.quirks.trip_limit_unit_min

    def entry(value: Any, place: str) -> _Trip:
        one = Arguments(value, place, _TRIP_RELAY)
        limit = one.whole("limit_min", 0, 0xFFFF * unit, 0, "min")
        if limit % unit:
            raise bad(one.at("limit_min"), f"this terminal counts in units of {unit} min, got {limit}")
        return _Trip(
            one.whole("relay", 1, context.quirks.relays),
            one.whole("alarm_delay_min", 0, 255, unit="min"),
            limit,
            one.flag("auto_close", False),
        )

    found: list[_Trip] = _relays(args.items("relays", entry, context.quirks.relays), args, context)
    param = array(
        structure(
            _relay_oad(one.relay),
            unsigned(one.delay_min),
            Data(Tag.LONG_UNSIGNED, one.limit_min // unit),
            Data(Tag.BOOL, one.auto_close),
        )
        for one in found
    )
    delay = max(one.delay_min for one in found)
    # A relay that is restored before the last one opens cannot be seen open with the others.
    lasting = [one for one in found if not one.limit_min or one.delay_min + one.limit_min > delay]
    window = min((60.0 * (one.delay_min + one.limit_min - delay) for one in lasting if one.limit_min), default=None)
    expected = Relays(tuple(one.relay for one in lasting), open=True)
    return Made(
        (step(action(omd(0x8000, 129), param), "trip"),),
        verification(expected, context, *_relay_sources(guarantee=True), after_s=60.0 * delay, window_s=window),
    )


def _relay_sources(*, guarantee: bool) -> tuple[ClientApdu, ...]:
    """8000 first, whose attribute 3 is the effect itself; then F205 and the group, which tell less."""
    first: tuple[Oad, ...] = (RELAY_OUTPUT, ALARM_STATE, COMMAND_STATE)
    return get(*first, GUARANTEE) if guarantee else get(*first), get(RELAYS), get(group_state(1))


@dataclass(frozen=True, slots=True)
class _Close:
    relay: int
    mode: str


def close(args: Arguments, context: Context) -> Made:
    """`close` 合闸: relays: [{relay: 1..4; mode: permit 合闸允许 (a hand closes) or direct 直接合闸 (permit)}]."""

    def entry(value: Any, place: str) -> _Close:
        one = Arguments(value, place, _CLOSE_RELAY)
        return _Close(one.whole("relay", 1, context.quirks.relays), one.word("mode", _MODES, "permit"))

    found: list[_Close] = _relays(args.items("relays", entry, context.quirks.relays), args, context)
    param = array(structure(_relay_oad(one.relay), enum(_MODES.index(one.mode))) for one in found)
    by_mode = {mode: tuple(one.relay for one in found if one.mode == mode) for mode in _MODES}
    expected = All(
        tuple(Relays(relays, open=False, permit=mode == "permit") for mode, relays in by_mode.items() if relays)
    )
    return Made(
        (step(action(omd(0x8000, 130), param), "close"),),
        verification(expected, context, *_relay_sources(guarantee=False)),
    )


def alarm(args: Arguments, context: Context) -> Made:
    """`alarm` 告警: on: true triggers it 触发告警, false releases it 解除告警."""
    on = args.flag("on")
    return Made(
        (step(action(omd(0x8000, 127 if on else 128), NULL), "alarm" if on else "alarm off"),),
        verification(Alarming(on), context, get(ALARM_STATE)),
    )


def power_guarantee(args: Arguments, context: Context) -> Made:
    """`power_guarantee` 保电: while it is in force nothing trips.

    on: true 投入保电, false 解除保电. automatic: with on false, release the automatic one 解除自动保电 (false).
    """
    on = args.flag("on")
    automatic = args.flag("automatic", False)
    if on and automatic:
        raise bad(args.at("automatic"), "only with on false: the terminal itself begins an automatic guarantee")
    method = 129 if automatic else 127 if on else 128
    label = "release automatic power guarantee" if automatic else "power guarantee" if on else "release power guarantee"
    wanted = Guarantee("not_automatic" if automatic else "on" if on else "off")
    return Made(
        (step(action(omd(0x8001, method), NULL), label),),
        verification(wanted, context, get(GUARANTEE)),
    )


def arrears_alarm(args: Arguments, context: Context) -> Made:
    """`arrears_alarm` 催费告警: the terminal reminds its customer to pay.

    on: true or false. With on: hours: [0..23] in which it sounds 告警时段 (all); text: 1..200 octets in GBK.
    """
    if not args.flag("on"):
        for name in ("hours", "text"):
            if name in args:
                raise bad(args.at(name), "only with on true")
        return Made(
            (step(action(omd(0x8002, 128), NULL), "arrears alarm off"),),
            verification(Arrears(on=False), context, get(ARREARS)),
        )
    numbers = args.items("hours", lambda value, place: whole_of(value, place, 0, 23, "h"), 24, list(range(24)))
    distinct(numbers, args.at("hours"), "hour")
    param = structure(
        hours(numbers, lsb_first=context.quirks.alarm_hours_lsb_first),
        args.read("text", lambda value, place: gbk(text_of(value, place), place)),
    )
    return Made(
        (step(action(omd(0x8002, 127), param), "arrears alarm"),),
        verification(Arrears(on=True), context, get(ARREARS)),
    )
