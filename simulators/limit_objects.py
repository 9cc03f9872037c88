"""Objects of limits: 8100 to 8102, class 13 8103 to 8108, aggregation groups 2301 to 2308 (control.md 5 to 7)."""

from __future__ import annotations

from collections.abc import Callable

from wire698.values import NULL, Dar, Data, Oad, Omd, ScalerUnit, Tag

from .control import Control
from .groups import GROUPS, MOST_MEMBERS, Member
from .limits import (
    ENERGY_CONTROLS,
    FLOAT_DOWN,
    MONTHLY,
    OLD_PURCHASE,
    PERIOD,
    POWER_CONTROLS,
    PURCHASE,
    SLUGS,
    TYPE_BITS,
    UNIT_SHAPES,
)
from .shapes import (
    BAD_GROUP,
    BITS8,
    GROUP,
    MISSING,
    NOTHING,
    OUT_OF_RANGE,
    POWER,
    REFUSED,
    REPEATED_ORDER,
    SUCCESS,
    UNDEFINED,
    Kind,
    Many,
    Shape,
    array,
    bits,
    element,
    enum,
    i64,
    members_of,
    oi,
    refusal,
    structure,
    u8,
    up_to,
)

SAFETY, PERIODS, ALARM_TIMES = 0x8100, 0x8101, 0x8102
LIMIT_OIS = frozenset({SAFETY, PERIODS, ALARM_TIMES, *SLUGS, *GROUPS})

_PARAMETERS: dict[int, Shape] = {
    SAFETY: POWER,
    PERIODS: Many(Kind(Tag.UNSIGNED), exactly=12),
    ALARM_TIMES: Many(Kind(Tag.UNSIGNED), exactly=8),
}
_MEMBER: Shape = (Kind(Tag.TSA), up_to(Tag.ENUM, 1), up_to(Tag.ENUM, 1))
_SCHEME: Shape = (GROUP, (BITS8, up_to(Tag.UNSIGNED, 2)))
_KW, _KVAR, _KWH, _KVARH = (Data(Tag.SCALER_UNIT, ScalerUnit(-4, unit)) for unit in (28, 32, 33, 35))
_SCALERS = structure(_KW, _KVAR, _KW, _KVAR, _KWH, _KVARH, _KWH, _KVARH, _KWH, _KW)
"""2301 attribute 18: of attributes 3 to 12."""


class LimitObjects:
    """What GET, SET and ACTION find behind the objects of LIMIT_OIS."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._limits = control.limits
        self._groups = control.groups
        self._rounds_lsb_first = control.settings.round_bits_lsb_first
        self._lsb_first = control.settings.control_bits_lsb_first

    def get(self, oad: Oad, at: float) -> Data | Dar:
        """An attribute, or an element of it."""
        if oad.oi in GROUPS:
            value = self._group(oad.oi, oad.attribute, at)
        elif oad.oi in SLUGS:
            value = self._control_attribute(oad.oi, oad.attribute)
        else:
            value = self._parameter(oad.oi) if oad.attribute == 2 else MISSING
        return element(value, oad.index)

    def set(self, oad: Oad, value: Data, at: float) -> Dar:
        """Write a parameter; what methods change cannot be written."""
        if oad.index:
            return REFUSED
        if oad.oi in GROUPS:
            dar = self._set_group(oad, value, at)
        elif oad.oi in _PARAMETERS and oad.attribute == 2:
            dar = refusal(value, _PARAMETERS[oad.oi])
            if dar == SUCCESS:
                self._set_parameter(oad.oi, value)
        else:
            dar = REFUSED if isinstance(self.get(oad, at), Data) else MISSING
        if dar == SUCCESS and self._limits.interval() is not None:
            self._control.touch(at)
        return dar

    def act(self, omd: Omd, parameter: Data, at: float) -> Dar:
        """Carry out a method."""
        if omd.oi in GROUPS:
            return self._act_group(omd, parameter, at)
        if omd.oi not in SLUGS:
            return MISSING
        if omd.oi == FLOAT_DOWN and omd.method == 6:
            return UNDEFINED
        found = _METHODS.get((omd.oi, omd.method)) or _METHODS.get((0, omd.method))
        if found is None:
            return MISSING
        shape, method = found
        shapes = [shape] if shape is not None else [UNIT_SHAPES[omd.oi]]
        if shape is None and omd.oi == PURCHASE:
            shapes.append(OLD_PURCHASE)
        results = [refusal(parameter, wanted) for wanted in shapes]
        if SUCCESS not in results:
            return OUT_OF_RANGE if OUT_OF_RANGE in results else results[0]
        group = parameter.value if parameter.tag == Tag.OI else parameter.value[0].value
        if group not in GROUPS:
            return BAD_GROUP
        dar = method(self, omd.oi, group, parameter, at)
        if dar == SUCCESS:
            self._control.touch(at)
        return dar

    # --- 8100 to 8102 ---

    def _parameter(self, of: int) -> Data:
        parameters = self._limits.parameters
        if of == SAFETY:
            return i64(parameters.floor)
        return array(map(u8, parameters.periods if of == PERIODS else parameters.waits))

    def _set_parameter(self, of: int, value: Data) -> None:
        parameters = self._limits.parameters
        if of == SAFETY:
            parameters.floor = value.value
        elif of == PERIODS:
            parameters.periods = bytes(item.value for item in value.value)
        else:
            parameters.waits = tuple(item.value for item in value.value)

    # --- class 13 ---

    def _control_attribute(self, of: int, attribute: int) -> Data | Dar:
        limits = self._limits
        groups = [group for group in GROUPS if (of, group) in limits.units or (of, group) in limits.inputs]
        match attribute:
            case 2:
                return array(limits.units[of, group] for group in groups if (of, group) in limits.units)
            case 3:
                return array(structure(oi(group), enum(limits.is_input(of, group))) for group in groups)
            case 4:
                rounds = [limits.look(of, group).rounds for group in groups]
                return array(
                    structure(oi(group), bits(tripped, lsb_first=self._rounds_lsb_first))
                    for group, tripped in zip(groups, rounds, strict=True)
                )
            case 5:
                return array(structure(oi(group), enum(limits.look(of, group).alarm)) for group in groups)
        return MISSING

    def _add(self, of: int, group: int, parameter: Data, at: float) -> Dar:
        before = self._limits.units.get((of, group))
        if of == PURCHASE:
            if before is not None and before.value[1] == parameter.value[1]:
                return REPEATED_ORDER
            self._control.purchase(at, group, parameter, NULL if before is None else before)
        self._limits.units[of, group] = parameter
        return SUCCESS

    def _update(self, of: int, group: int, parameter: Data, at: float) -> Dar:
        if (of, group) not in self._limits.units and of not in (PURCHASE, FLOAT_DOWN):
            return MISSING
        return self._add(of, group, parameter, at)

    def _delete(self, of: int, group: int, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        # What attributes 3 to 5 say is kept (control.md 6), but without a unit nothing acts.
        return SUCCESS if self._limits.units.pop((of, group), None) is not None else MISSING

    def _put_in(self, of: int, group: int, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        self._limits.put_in(of, group)
        return SUCCESS

    def _release(self, of: int, group: int, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        self._limits.release(of, group)
        return SUCCESS

    def _switch_scheme(self, of: int, group: int, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        flags, scheme = parameter.value[1].value
        self._limits.parameters.flags[group] = members_of(flags, lsb_first=self._lsb_first)
        self._limits.parameters.schemes[group] = scheme.value
        return SUCCESS

    def _float_down(self, of: int, group: int, parameter: Data, at: float) -> Dar:
        self._limits.units[of, group] = parameter
        self._limits.float_down(group, at)
        return SUCCESS

    # --- 2301 to 2308 ---

    def _group(self, of: int, attribute: int, at: float) -> Data | Dar:
        groups, group = self._groups, self._groups.all[of]
        match attribute:
            case 2:
                return array(
                    structure(Data(Tag.TSA, member.tsa), enum(member.reverse), enum(member.minus))
                    for member in group.members
                )
            case 3 | 4:
                return i64(groups.power(of, at)[attribute - 3])
            case 5 | 6:
                return i64(groups.average(of, at, max(1, group.sliding_min) * 60)[attribute - 5])
            case 7 | 8:
                return array(map(i64, groups.day(of, at)[attribute - 7]))
            case 9 | 10:
                return array(map(i64, groups.month(of, at)[attribute - 9]))
            case 11:
                return i64(groups.remaining(of, at))
            case 12:
                return i64(group.frozen)
            case 13:
                return u8(group.sliding_min)
            case 14:
                return self._rounds(group.power_rounds)
            case 15:
                return self._rounds(group.energy_rounds)
            case 16:
                return self._setting(of)
            case 17:
                return self._state(of)
            case 18:
                return _SCALERS
        return MISSING

    def _rounds(self, rounds: int) -> Data:
        return bits(rounds, lsb_first=self._rounds_lsb_first)

    def _types(self, members: int) -> Data:
        return bits(members, lsb_first=self._lsb_first)

    def _setting(self, of: int) -> Data:
        """Control setting state 控制设置状态."""
        limits, group = self._limits, self._groups.all[of]
        power = sum(TYPE_BITS[control] for control in POWER_CONTROLS if limits.is_input(control, of))
        energy = sum(TYPE_BITS[control] for control in ENERGY_CONTROLS if limits.is_input(control, of))
        return structure(
            u8(limits.parameters.schemes.get(of, 0)),
            self._types(limits.parameters.flags.get(of, 0xFF)),
            self._types(power),
            self._types(energy),
            self._rounds(group.power_rounds),
            self._rounds(group.energy_rounds),
        )

    def _state(self, of: int) -> Data:
        """Present control state 当前控制状态."""
        limits = self._limits
        acting = limits.acting.get(of)
        unit = limits.units.get((FLOAT_DOWN, of))
        percent = unit.value[1].value[1].value if unit is not None and of in limits.floating else 0
        power_rounds = 0
        for control in POWER_CONTROLS:
            power_rounds |= limits.look(control, of).rounds
        alarms = {control for control in SLUGS if limits.look(control, of).alarm}
        return structure(
            i64(acting.limit if acting is not None else 0),
            Data(Tag.INTEGER, percent),
            self._rounds(power_rounds),
            self._rounds(limits.look(MONTHLY, of).rounds),
            self._rounds(limits.look(PURCHASE, of).rounds),
            self._types(sum(TYPE_BITS[control] for control in alarms.intersection(POWER_CONTROLS))),
            self._types(sum(TYPE_BITS[control] for control in alarms.intersection(ENERGY_CONTROLS))),
        )

    def _set_group(self, oad: Oad, value: Data, at: float) -> Dar:
        group = self._groups.all[oad.oi]
        match oad.attribute:
            case 2:
                dar = refusal(value, Many(_MEMBER, most=MOST_MEMBERS))
                if dar == SUCCESS:
                    self._groups.consist_of(oad.oi, [_member(item) for item in value.value], at)
            case 13:
                dar = refusal(value, up_to(Tag.UNSIGNED, 60, 1))
                if dar == SUCCESS:
                    group.sliding_min = value.value
            case 14 | 15:
                dar = refusal(value, BITS8)
                rounds = members_of(value, lsb_first=self._rounds_lsb_first) if dar == SUCCESS else 0
                if dar == SUCCESS and oad.attribute == 14:
                    group.power_rounds = rounds
                elif dar == SUCCESS:
                    group.energy_rounds = rounds
            case _:
                dar = REFUSED if isinstance(self.get(oad, at), Data) else MISSING
        return dar

    def _act_group(self, omd: Omd, parameter: Data, at: float) -> Dar:
        groups, present = self._groups, self._groups.all[omd.oi].members
        shapes: dict[int, Shape] = {1: NOTHING, 3: _MEMBER, 4: Many(_MEMBER, most=MOST_MEMBERS), 5: Kind(Tag.TSA)}
        if omd.method not in shapes:
            return MISSING
        dar = refusal(parameter, shapes[omd.method])
        if dar != SUCCESS:
            return dar
        if omd.method == 1:
            groups.consist_of(omd.oi, [], at)
            return SUCCESS
        if omd.method == 5:
            left = [member for member in present if member.tsa != parameter.value]
            groups.consist_of(omd.oi, left, at)
            return SUCCESS if len(left) < len(present) else MISSING
        added = [_member(item) for item in (parameter.value if omd.method == 4 else (parameter,))]
        names = {member.tsa for member in added}
        members = [member for member in present if member.tsa not in names] + added
        if len(members) > MOST_MEMBERS:
            return OUT_OF_RANGE
        groups.consist_of(omd.oi, members, at)
        return SUCCESS


def _member(item: Data) -> Member:
    tsa, direction, operator = (part.value for part in item.value)
    return Member(tsa, direction == 1, operator == 1)


_Method = Callable[[LimitObjects, int, int, Data, float], Dar]
_METHODS: dict[tuple[int, int], tuple[Shape | None, _Method]] = {
    (0, 3): (None, LimitObjects._add),
    (0, 4): (GROUP, LimitObjects._delete),
    (0, 5): (None, LimitObjects._update),
    (0, 6): (GROUP, LimitObjects._put_in),
    (0, 7): (GROUP, LimitObjects._release),
    (PERIOD, 127): (_SCHEME, LimitObjects._switch_scheme),
    (FLOAT_DOWN, 127): (UNIT_SHAPES[FLOAT_DOWN], LimitObjects._float_down),
}
"""By control, 0 for all of them; None stands for the control's unit."""
