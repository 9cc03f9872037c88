"""The terminal's clock 终端时钟, and whether 保电 is in force: what the gateway asks on its own account."""

from __future__ import annotations

from protocols.times import Instants
from wire698.access import ActionRequestNormal, GetRequestNormal, SetRequestNormal
from wire698.pieces import Apdu
from wire698.values import Data, Tag

from .configuration import CLOCK
from .encoding import NO_PIID, action, omd, setting
from .evidence import results_of
from .expectations import GUARANTEE
from .states import number_in


def clock_request() -> GetRequestNormal:
    """GET of the clock, for `clock_offset`."""
    return GetRequestNormal(NO_PIID, CLOCK)


def clock_offset(answer: Apdu | None, now_ms: int, instants: Instants) -> int | None:
    """Terminal's clock minus ours at `now_ms`, ms; None where the answer holds no instant.

    The terminal tells whole seconds, so the true offset is up to a second more.
    """
    for result in results_of(answer):
        data = result.data
        if result.oad == CLOCK and data is not None and data.tag in (Tag.DATE_TIME_S, Tag.DATE_TIME):
            told = instants[data.value]
            return None if told is None else told - now_ms
    return None


def clock_setting(now_ms: int, instants: Instants) -> SetRequestNormal:
    """SET of the clock to `now_ms` 对时; do not send it twice."""
    return setting(CLOCK, Data(Tag.DATE_TIME_S, instants.date_time_s(now_ms)))


def clock_broadcast(now_ms: int, instants: Instants) -> ActionRequestNormal:
    """The method that sets the clocks of all terminals of a group or broadcast address 广播校时; nobody answers it."""
    return action(omd(0x4000, 127), Data(Tag.DATE_TIME_S, instants.date_time_s(now_ms)))


def guarantee_request() -> GetRequestNormal:
    """GET of the state of the power guarantee 保电, for `guarantee_in_force`."""
    return GetRequestNormal(NO_PIID, GUARANTEE)


def guarantee_in_force(answer: Apdu | None) -> bool | None:
    """Whether the guarantee, ordered or automatic, is in force; None where the answer does not tell."""
    for result in results_of(answer):
        if result.oad == GUARANTEE and result.data is not None:
            state = number_in(result.data, Tag.ENUM, Tag.UNSIGNED)
            return {0: False, 1: True, 2: True}.get(state) if state is not None else None
    return None
