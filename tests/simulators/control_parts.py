"""Hands for tests of load control: ask a benched terminal, and look at its relays and load."""

from __future__ import annotations

from typing import Any

from simulators.shapes import array, bits, enum, i64, oi, structure, u8, u16
from wire698 import access
from wire698.values import NULL, Dar, Data, Oad, Omd, Piid, Tag

P = Piid(5)
START = 1772409600.0
"""2026-03-02 08:00 local, a Monday, as the bench has it; it runs 60 simulated seconds in a real one."""
G = 0x2301
OUTPUT, ALARM, COMMAND, GUARANTEE = map(Oad, (0x80000300, 0x80000400, 0x80000500, 0x80010200))


def send(bench: Any, hexadecimal: str) -> Any:
    (answer,) = bench.take(bench.feed_raw(0x43, bytes.fromhex(hexadecimal)))
    return answer


def act(bench: Any, omd: int, param: Data = NULL) -> int:
    (answer,) = bench.ask(access.ActionRequestNormal(piid=P, omd=Omd(omd), param=param))
    assert (answer.piid, answer.omd) == (P, Omd(omd))
    return int(answer.dar)


def put(bench: Any, oad: int, value: Data) -> int:
    (answer,) = bench.ask(access.SetRequestNormal(piid=P, oad=Oad(oad), value=value))
    return int(answer.dar)


def get(bench: Any, oad: int) -> Any:
    (answer,) = bench.ask(access.GetRequestNormal(piid=P, oad=Oad(oad)))
    result = answer.result
    return result.result if isinstance(result.result, Dar) else result.data


def octet(bench: Any, oad: int) -> int:
    """The one octet of a bitmap."""
    value: int = get(bench, oad).value.octets[0]
    return value


def pass_minutes(bench: Any, minutes: float) -> list[Any]:
    """Simulated minutes are real seconds here."""
    said: list[Any] = bench.run(bench.now + minutes)
    return said


def kilowatts(bench: Any) -> float:
    power: float = bench.terminal.body.premises.kilowatts(START + bench.now * 60)
    return power


def relays(bench: Any) -> set[int]:
    return set(bench.terminal.body.premises.open_relays)


def trip(*relays_: int, delay: int = 0, limit: int = 0) -> Data:
    return array(
        structure(Data(Tag.OAD, Oad(0xF2050200 | relay)), u8(delay), u16(limit), Data(Tag.BOOL, False))
        for relay in relays_
    )


def close(*relays_: int, direct: bool = True) -> Data:
    return array(structure(Data(Tag.OAD, Oad(0xF2050200 | relay)), enum(int(direct))) for relay in relays_)


def period_unit(limit: int) -> Data:
    valid = structure(bits(0xFF), *(i64(limit) for _ in range(8)))
    return structure(oi(G), bits(1), valid, valid, valid, Data(Tag.INTEGER, 0))


def start_period_control(bench: Any, limit_kw: float) -> None:
    """8101 all day level 1, 8102 one minute each, one unit, input."""
    assert put(bench, 0x81010200, array([u8(0b01010101)] * 12)) == 0
    assert put(bench, 0x81020200, array([u8(1)] * 8)) == 0
    assert act(bench, 0x81030300, period_unit(round(limit_kw * 10_000))) == 0
    assert act(bench, 0x81030600, oi(G)) == 0
