"""The control objects 负荷控制对象 8103..8108 (control.md 5, 6): limits that the terminal enforces by itself.

Each verb sends, in this order and only as far as it is given: parameters (SET), the configuration unit 控制单元
(method 3 add, 5 update), the input 控制投入 (method 6), and for 8103 the choice of scheme (127). A step that is refused
ends it, so nothing is input whose unit was not taken.
"""

from __future__ import annotations

from typing import Any, Final

from wire698.pieces import ClientApdu
from wire698.values import Data, Tag

from .arguments import Arguments, clock_of, distinct, items_of, scaled_of, shown, whole_of
from .context import Context, Made
from .encoding import (
    FIRST_GROUP,
    GROUPS,
    action,
    action_of,
    array,
    bits,
    enum,
    get,
    group_oi,
    half_hours,
    instant,
    long64,
    oad,
    omd,
    setting,
    structure,
    today_at,
    unsigned,
)
from .errors import bad
from .expectations import All, Input, Purchased, Stored, group_setting, input_state, remainder, units
from .plans import Step, Verification
from .remote import step, verification
from .states import CONTROLS

_UNIT: Final = ("group", "update", "input")
_POWER: Final = ("security_limit_kw", "periods", "alarm_min", "sliding_min", "rounds")
PERIOD: Final = (*_UNIT, *_POWER, "schemes", "coefficient_percent", "scheme", "active_periods")
REST: Final = (*_UNIT, *_POWER, "limit_kw", "start", "duration_min", "weekdays")
SUSPENSION: Final = (*_UNIT, *_POWER, "limit_kw", "start", "end")
FLOAT_DOWN: Final = (
    "group",
    "security_limit_kw",
    "rounds",
    "sliding_min",
    "coefficient_percent",
    "freeze_delay_min",
    "control_min",
    "alarm_min",
)
PURCHASE: Final = (
    *_UNIT,
    "rounds",
    "order",
    "operation",
    "kind",
    "amount",
    "alarm_threshold",
    "trip_threshold",
    "mode",
)
MONTHLY: Final = (*_UNIT, "rounds", "limit_kwh", "alarm_percent", "coefficient_percent")
RELEASE: Final = ("control", "group")

ROUNDS: Final = 8
PERIODS: Final = 8
SCHEMES: Final = 3
_HALF_HOURS: Final = 48
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ADD, _UPDATE, _INPUT, _RELEASE, _SPECIAL = 3, 5, 6, 7, 127


def _group(args: Arguments) -> int:
    group: int = args.whole("group", 1, GROUPS)
    return group


def _percent(args: Arguments, default: Any = 0) -> Data:
    """Float coefficient 浮动系数."""
    return Data(Tag.INTEGER, args.whole("coefficient_percent", -100, 127, default, "%"))


def _kw(args: Arguments, name: str) -> Data:
    return long64(args.scaled(name, -4, "kW"))


def _numbers(args: Arguments, name: str, most: int, default: Any) -> list[int] | None:
    """Different whole numbers of 1 to `most`: rounds, periods."""
    found: list[int] | None = args.items(name, lambda value, place: whole_of(value, place, 1, most), most, default)
    return found if found is None else distinct(found, args.at(name), name.rstrip("s"))


# --- parameters ---------------------------------------------------------------------------------------------------


def _parameters(args: Arguments, group: int, context: Context, *, energy: bool = False) -> list[Step]:
    """SETs of what is given: 8100 保安定值, 8101 功控时段, 8102 告警时间, the group's 13 滑差时间, 14 / 15 轮次配置."""
    own = FIRST_GROUP + group - 1
    found: list[tuple[int, int, Data, str]] = []
    if "security_limit_kw" in args:
        found.append((0x8100, 2, _kw(args, "security_limit_kw"), "security limit"))
    if "periods" in args:
        found.append((0x8101, 2, half_hours(args.read("periods", periods_of)), "control periods"))
    if "alarm_min" in args:
        found.append((0x8102, 2, array(unsigned(minutes) for minutes in _alarm_minutes(args, ROUNDS)), "alarm times"))
    if "sliding_min" in args:
        found.append((own, 13, unsigned(args.whole("sliding_min", 1, 255, unit="min")), "sliding period"))
    rounds = _numbers(args, "rounds", ROUNDS, None)
    if rounds is not None:
        bitmap = bits((number - 1 for number in rounds), lsb_first=context.quirks.round_bits_lsb_first)
        found.append((own, 15 if energy else 14, bitmap, "energy-control rounds" if energy else "power-control rounds"))
    return [step(setting(oad(oi, attribute), value), label) for oi, attribute, value, label in found]


def _alarm_minutes(args: Arguments, count: int, default: Any = None) -> list[int]:
    """Alarm time before each round trips; rounds that are not given have the last one's, never none."""
    minutes: list[int] = args.items(
        "alarm_min", lambda value, place: whole_of(value, place, 0, 255, "min"), count, *([default] if default else [])
    )
    return minutes + [minutes[-1]] * (count - len(minutes))


def periods_of(value: Any, place: str) -> list[int]:
    """48 levels, one for each half-hour, or [{from, to, level}]; levels 0 none, 1 and 2 控制1, 控制2.

    A time that no span names is not controlled.
    """
    if isinstance(value, list | tuple) and value and not isinstance(value[0], dict):
        return items_of(value, place, lambda item, at: whole_of(item, at, 0, 2), _HALF_HOURS, _HALF_HOURS)
    levels = [0] * _HALF_HOURS
    taken: set[int] = set()

    def span(item: Any, at: str) -> None:
        args = Arguments(item, at, ("from", "to", "level"))
        start, end = (_half_hour(args, name) for name in ("from", "to"))
        if end <= start:
            raise bad(args.at("to"), "a time after from expected; a span over midnight is two")
        if taken & set(range(start, end)):
            raise bad(at, "overlaps a span before it")
        taken.update(range(start, end))
        levels[start:end] = [args.whole("level", 1, 2, 1)] * (end - start)

    items_of(value, place, span, 1, _HALF_HOURS)
    return levels


def _half_hour(args: Arguments, name: str) -> int:
    clock = args.read(name, clock_of)
    if clock is None:
        return _HALF_HOURS
    if clock.minute % 30:
        raise bad(args.at(name), f"a whole or half hour expected, got {clock:%H:%M}")
    return int(clock.hour * 2 + clock.minute // 30)


# --- units and input ----------------------------------------------------------------------------------------------


def _unit_step(args: Arguments, control: str, members: tuple[Data, ...]) -> Step:
    update = args.flag("update", False)
    label = f"{'update' if update else 'add'} {control} unit"
    return step(action(omd(CONTROLS[control], _UPDATE if update else _ADD), structure(*members)), label)


def _input_step(control: str, group: int) -> Step:
    return step(action(omd(CONTROLS[control], _INPUT), group_oi(group)), f"input {control} control")


def _verify_input(control: str, group: int, context: Context, *, on: bool) -> Verification:
    sources = get(input_state(control)), get(group_setting(group))
    return verification(Input(control, group, on), context, *sources)


def _finish(
    args: Arguments, control: str, group: int, members: tuple[Data, ...] | None, steps: list[Step], context: Context
) -> Made:
    """Parameters, then the unit, then the input; what is looked at is the last of them."""
    if members is not None:
        steps.append(_unit_step(args, control, members))
    elif "update" in args:
        raise bad(args.at("update"), "only with a unit to be updated")
    if args.flag("input", True):
        steps.append(_input_step(control, group))
        return Made(tuple(steps), _verify_input(control, group, context, on=True))
    if members is None:
        raise bad(args.at("input"), "true expected where no unit is given; `write` sets parameters alone")
    return Made(tuple(steps), verification(Stored(control, group, members), context, get(units(control))))


def _needed(args: Arguments, names: tuple[str, ...]) -> bool:
    """Whether a unit is given: any of its members, and then all that are needed are read."""
    return any(name in args for name in names)


def period_control(args: Arguments, context: Context) -> Made:
    """`period_control` 时段功控 8103: a limit for each period of the day.

    group: 1..8. periods: 8101. alarm_min: 8102. sliding_min, rounds: of the group. security_limit_kw: 8100.
    schemes: up to three lists of up to eight limits in kW, null for a period (or a scheme) that is not valid.
    coefficient_percent: 浮动系数 (0). update: replace the unit (false). input: put it in force (true).
    scheme: 1..3, active_periods: [1..8]: method 127, which of them apply.
    """
    group = _group(args)
    steps = _parameters(args, group, context)
    lsb = context.quirks.control_bits_lsb_first
    schemes: list[list[int | None] | None] = args.items("schemes", _scheme_of, SCHEMES, [])
    members = None
    if schemes:
        padded = schemes + [None] * (SCHEMES - len(schemes))
        if not any(schemes):
            raise bad(args.at("schemes"), "at least one scheme with limits expected")
        members = (
            group_oi(group),
            bits((n for n, scheme in enumerate(padded) if scheme), lsb_first=lsb),
            *(_scheme(scheme or [], lsb_first=lsb) for scheme in padded),
            _percent(args),
        )
    elif "coefficient_percent" in args:
        raise bad(args.at("coefficient_percent"), "only with schemes, whose limits it changes")
    made = _finish(args, "period", group, members, steps, context)
    switch = _switch(args, group, schemes, context)
    return made if switch is None else Made((*made.steps, switch), made.verification)


def _scheme_of(value: Any, place: str) -> list[int | None] | None:
    if value is None:
        return None

    def limit(item: Any, at: str) -> int | None:
        return None if item is None else scaled_of(item, at, -4, "kW", 0, 10**14)

    limits = items_of(value, place, limit, 1, PERIODS)
    if all(item is None for item in limits):
        raise bad(place, "at least one limit expected; null for a scheme that is not valid")
    return limits


def _scheme(limits: list[int | None], *, lsb_first: bool) -> Data:
    """Valid periods 时段号, then the limits 功控定值 of eight periods."""
    padded = limits + [None] * (PERIODS - len(limits))
    valid = bits((n for n, limit in enumerate(padded) if limit is not None), lsb_first=lsb_first)
    return structure(valid, *(long64(limit or 0) for limit in padded))


def _switch(args: Arguments, group: int, schemes: list[list[int | None] | None], context: Context) -> Step | None:
    """Method 127 时段功控方案切换, when it is asked for or the terminal needs it."""
    wanted = "scheme" in args or "active_periods" in args
    if not wanted and not (context.quirks.period_switch_always and args.flag("input", True)):
        return None
    if not args.flag("input", True):
        raise bad(args.at("input"), "a scheme is chosen only for a control that is input")
    number = args.whole("scheme", 1, SCHEMES, 1)
    limits = schemes[number - 1] if number <= len(schemes) else None
    if schemes and limits is None:
        raise bad(args.at("scheme"), f"scheme {number} is not valid: it has no limits in schemes")
    default = [n for n, limit in enumerate(limits, 1) if limit is not None] if limits else None
    periods = _numbers(args, "active_periods", PERIODS, default)
    if periods is None:
        raise bad(args.at("active_periods"), "missing: without schemes it is not known which periods have limits")
    lsb = context.quirks.control_bits_lsb_first
    choice = structure(bits((n - 1 for n in periods), lsb_first=lsb), unsigned(number - 1))
    apdu = action_of(
        omd(CONTROLS["period"], _SPECIAL),
        (group_oi(group), choice),
        structured=context.quirks.structured_parameters,
    )
    return step(apdu, "switch period scheme")


def rest_control(args: Arguments, context: Context) -> Made:
    """`rest_control` 厂休功控 8104: a limit on the days of rest.

    group; limit_kw; start: HH:MM or an instant, of which the time of day counts; duration_min: 1..65535;
    weekdays: mon … sun; update, input and the parameters as in `period_control`.
    """
    group = _group(args)
    steps = _parameters(args, group, context)
    members = None
    if _needed(args, ("limit_kw", "start", "duration_min", "weekdays")):
        members = (
            group_oi(group),
            _kw(args, "limit_kw"),
            Data(Tag.DATE_TIME_S, args.read("start", lambda value, place: _start_of(value, place, context))),
            Data(Tag.LONG_UNSIGNED, args.whole("duration_min", 1, 0xFFFF, unit="min")),
            _weekdays(args, context),
        )
    return _finish(args, "rest", group, members, steps, context)


def _start_of(value: Any, place: str, context: Context) -> bytes:
    if isinstance(value, str) and len(value) <= 5:
        clock = clock_of(value, place)
        if clock is None:
            raise bad(place, "a time of day of 00:00 to 23:59 expected, got 24:00")
        return today_at(clock, context.now_ms, context.instants)
    return instant(value, place, context.instants)


def _weekdays(args: Arguments, context: Context) -> Data:
    """Rest days 每周限电日, each in the bit that this terminal has for it."""

    def day_of(value: Any, place: str) -> int:
        if isinstance(value, str) and value in _DAYS:
            return _DAYS.index(value) + 1
        if isinstance(value, str):
            raise bad(place, f"one of {', '.join(_DAYS)} or 1 (Monday) to 7 expected, got {shown(value)}")
        return whole_of(value, place, 1, 7)

    days = distinct(args.items("weekdays", day_of, 7), args.at("weekdays"), "day")
    return bits(place for place, day in enumerate(context.quirks.rest_day_bits[:8]) if day in days)


def suspension_control(args: Arguments, context: Context) -> Made:
    """`suspension_control` 营业报停功控 8105: a limit while the business is suspended.

    group; start, end: instants; limit_kw; update, input and the parameters as in `period_control`.
    """
    group = _group(args)
    steps = _parameters(args, group, context)
    members = None
    if _needed(args, ("limit_kw", "start", "end")):
        start, end = (
            args.read(name, lambda value, place: instant(value, place, context.instants)) for name in ("start", "end")
        )
        if end <= start:
            raise bad(args.at("end"), "an instant after start expected")
        members = (
            group_oi(group),
            Data(Tag.DATE_TIME_S, start),
            Data(Tag.DATE_TIME_S, end),
            _kw(args, "limit_kw"),
        )
    return _finish(args, "suspension", group, members, steps, context)


def float_down(args: Arguments, context: Context) -> Made:
    """`float_down` 当前功率下浮控 8106: a limit below the present power, in force at once.

    group; sliding_min: 定值滑差时间, 1..255; coefficient_percent: negative lowers;
    freeze_delay_min: 控后冻结延时, 0..255;
    control_min: 控制时间, multiples of 30 up to 7650; alarm_min: [before round 1, … 4]; security_limit_kw, rounds.
    """
    group = _group(args)
    parameters = ("security_limit_kw", "rounds")
    given = {name: args.raw(name) for name in parameters if name in args}
    steps = _parameters(Arguments(given, args.place, parameters), group, context)
    sliding = args.whole("sliding_min", 1, 255, unit="min")
    control_min = args.whole("control_min", 30, 255 * 30, unit="min")
    if control_min % 30:
        raise bad(args.at("control_min"), f"half hours (multiples of 30) expected, got {control_min}")
    param = structure(
        unsigned(sliding),
        Data(Tag.INTEGER, args.whole("coefficient_percent", -100, 127, unit="%")),
        unsigned(args.whole("freeze_delay_min", 0, 255, unit="min")),
        unsigned(control_min // 30),
        *(unsigned(minutes) for minutes in _alarm_minutes(args, 4)),
    )
    apdu = action_of(
        omd(CONTROLS["float_down"], _SPECIAL),
        (group_oi(group), param),
        structured=context.quirks.structured_parameters,
    )
    steps.append(step(apdu, "input float_down control"))
    return Made(tuple(steps), _verify_input("float_down", group, context, on=True))


def purchase(args: Arguments, context: Context) -> Made:
    """`purchase` 购电控 8107: energy or a fee that was paid for; the load trips when it is used up.

    group; order: 购电单号, 0..4294967295, a number that is there already is refused (DAR 21);
    operation: append 追加 or refresh 刷新; kind: energy 电量 or fee 电费; amount, alarm_threshold, trip_threshold: kWh
    or yuan; mode: local 本地 or remote 远程 (remote); rounds: 电控轮次; update, input.
    """
    group = _group(args)
    steps = _parameters(args, group, context, energy=True)
    quirks = context.quirks
    order = args.whole("order", 0, 0xFFFFFFFF)
    refresh = args.word("operation", ("append", "refresh")) == "refresh"
    kind = args.word("kind", ("energy", "fee"))
    unit = "kWh" if kind == "energy" else "yuan"
    amount = args.scaled("amount", -4, unit)
    members = (
        group_oi(group),
        Data(Tag.DOUBLE_LONG_UNSIGNED, order),
        enum(quirks.purchase_refresh_code if refresh else quirks.purchase_append_code),
        *((enum(int(kind == "fee")),) if quirks.purchase_type_member else ()),
        long64(amount),
        long64(args.scaled("alarm_threshold", -4, unit)),
        long64(args.scaled("trip_threshold", -4, unit)),
        enum(int(args.word("mode", ("local", "remote"), "remote") == "remote")),
    )
    steps.append(_unit_step(args, "purchase", members))
    booked = Purchased(group, order, amount, refresh)
    sources: tuple[ClientApdu, ...] = (get(units("purchase")), get(remainder(group)))
    if not args.flag("input", True):
        return Made(tuple(steps), verification(booked, context, *sources))
    steps.append(_input_step("purchase", group))
    sources = (get(units("purchase"), input_state("purchase")), get(remainder(group), group_setting(group)))
    return Made(tuple(steps), verification(All((booked, Input("purchase", group, on=True))), context, *sources))


def monthly_control(args: Arguments, context: Context) -> Made:
    """`monthly_control` 月电控 8108: a limit to the energy of a month.

    group; limit_kwh; alarm_percent: 报警门限值系数, 0..255 % of it; coefficient_percent: 浮动系数 (0);
    rounds: 电控轮次; update, input.
    """
    group = _group(args)
    steps = _parameters(args, group, context, energy=True)
    members = None
    if _needed(args, ("limit_kwh", "alarm_percent", "coefficient_percent")):
        members = (
            group_oi(group),
            long64(args.scaled("limit_kwh", -4, "kWh")),
            unsigned(args.whole("alarm_percent", 0, 255, unit="%")),
            _percent(args),
        )
    return _finish(args, "monthly", group, members, steps, context)


def release(args: Arguments, context: Context) -> Made:
    """`release` 控制解除: a control is no longer in force for a group.

    control: period, rest, suspension, float_down, purchase, monthly (or the name of its verb). group: 1..8.
    """
    names = {name: name for name in CONTROLS} | {f"{name}_control": name for name in CONTROLS}
    control = names[args.word("control", tuple(names))]
    group = _group(args)
    label = f"release {control} control"
    return Made(
        (step(action(omd(CONTROLS[control], _RELEASE), group_oi(group)), label),),
        _verify_input(control, group, context, on=False),
    )
