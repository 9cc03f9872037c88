"""Sixty terminals on one 230 MHz channel: the medium is never violated, and hardly ever idle."""

from __future__ import annotations

import sys
from functools import partial

import pytest
from radio_parts import Dead, RadioBench, Script, names, terminal, trip
from terminal_side import dated

from gateway.medium import CONTROL, POLL, MediumOptions
from protocols.events import Request
from simulators.radio import MASTER, RadioSettings


def on_the_air(request: Request) -> bool:
    return request.attempts > 0


def is_last(bench: RadioBench, request: Request) -> bool:
    return bench.done[-1].request is request


def bounds(bench: RadioBench, since: float) -> tuple[float, float]:
    """What the radios were on the air, s: with their key-up times, and the octets alone."""
    carriers = bench.on_air(since)
    octets = sum(carrier.octets for carrier in carriers) * bench.radio_settings.octet_s
    return sum(carrier.ends - carrier.begins for carrier in carriers), octets


@pytest.mark.parametrize("bit_rate", [1200, 9600, 19200])
def test_a_cycle_takes_little_more_than_its_airtime(bit_rate: int, capsys: pytest.CaptureFixture[str]) -> None:
    settings, options = RadioSettings(bit_rate=bit_rate), MediumOptions(bit_rate=bit_rate)
    bench = RadioBench([terminal(name, 1000.0) for name in names(60)], settings, options)
    bench.round(names(60))
    began = bench.now
    cycle = bench.round(names(60))
    airtime, octets = bounds(bench, began)
    with capsys.disabled():
        sys.stdout.write(
            f"\n60 terminals, 8 points, {bit_rate} bit/s: cycle {cycle:.2f} s, carriers on the air {airtime:.2f} s"
            f" (x{cycle / airtime:.3f}), octets alone {octets:.2f} s (x{cycle / octets:.3f})\n"
        )
    assert not bench.radio.violations
    assert len(bench.done) == 120
    assert all(done.failure is None and len(done.result.results) == 8 for done in bench.done)
    assert cycle <= 1.25 * airtime
    assert bench.medium.counters.cycle_seconds == pytest.approx(cycle, rel=0.01)
    assert bench.medium.counters.air_seconds["poll"] == pytest.approx(bench.now - 1000.0, rel=0.01)


@pytest.mark.parametrize("bit_rate", [1200, 9600])
def test_a_trip_is_on_the_air_within_one_exchange(bit_rate: int) -> None:
    """Whenever it is issued in the middle of a full cycle."""
    settings, options = RadioSettings(bit_rate=bit_rate), MediumOptions(bit_rate=bit_rate)
    bench = RadioBench([Script(name) for name in names(60)], settings, options)
    bench.round(names(60))
    longest = max(
        later.begins - earlier.begins for earlier, later in zip(bench.on_air()[::2], bench.on_air()[2::2], strict=False)
    )
    for name in names(60):
        bench.ask(name)
    for part in range(20):
        bench.run(longest * 0.37)
        assert bench.medium.counters.waiting > 20
        asked, victim = bench.now, names(60)[part]
        request = bench.ask(victim, CONTROL, trip(), retries=0)
        bench.run(60, partial(on_the_air, request))
        assert bench.now - asked <= longest
        bench.run(60, partial(is_last, bench, request))
    assert not bench.radio.violations


def test_a_control_does_not_wait_for_a_retry() -> None:
    """A terminal that is silent costs a control one answer time, never its second attempt."""
    first, second = names(2)
    bench = RadioBench([Dead(first), Script(second)])
    bench.ask(first, POLL, retries=3)
    bench.run(0.3)
    request = bench.ask(second, CONTROL, trip())
    bench.finish()
    assert bench.done[0].request is request
    assert bench.done[0].at - 1000.0 < 2.0 + 1.0
    assert bench.medium.counters.retries == 3
    assert not bench.radio.violations


def test_dead_terminals_cost_less_than_a_tenth_of_the_cycle(capsys: pytest.CaptureFixture[str]) -> None:
    everyone = names(60)
    dead = frozenset(everyone[5::6])
    assert len(dead) == 10
    bench = RadioBench([Dead(name) if name in dead else Script(name) for name in everyone])
    alone = RadioBench([Script(name) for name in everyone if name not in dead])
    alone.round([name for name in everyone if name not in dead])
    bare = alone.round([name for name in everyone if name not in dead])
    cycles = [bench.round(everyone) for _ in range(24)]
    shares = [1 - bare / cycle for cycle in cycles]
    with capsys.disabled():
        sys.stdout.write(
            f"\n10 dead of 60: cycle {bare:.2f} s without them; shares of the dead by round: "
            + " ".join(f"{share:.0%}" for share in shares)
            + "\n"
        )
    assert not bench.radio.violations
    assert all(share < 0.1 for share in shares[3:])
    assert shares[0] > 0.3, "the dead must cost something at first, or this shows nothing"
    asked = [done for done in bench.done if done.terminal in dead and done.failure == "timed_out"]
    assert {done.terminal for done in asked[20:]} == dead, "all of them are still asked now and then"
    alive = [done for done in bench.done if done.terminal not in dead]
    assert len(alive) == 50 * 24
    assert all(done.failure is None for done in alive)


def test_a_terminal_that_is_back_is_asked_every_round_again() -> None:
    away = iter([False] * 4)
    first, second = names(2)
    bench = RadioBench([Script(first), Script(second, lambda _: None if next(away, None) is False else 0.0)])
    for _ in range(60):
        bench.round([first, second])
        bench.run(60.0)
    mine = [done.failure for done in bench.done if done.terminal == second]
    # Two attempts at first, then one a round; after the second silence it is left out more and more.
    assert mine[:6] == ["timed_out", "timed_out", "skipped", "timed_out", "skipped", "skipped"]
    assert set(mine[-40:]) == {None}
    assert bench.medium.counters.skipped == 1 + 3
    assert not bench.radio.violations


def test_nobody_talks_before_the_medium_is_quiet() -> None:
    """Terminals that speak unasked are listened to; what they are owed goes out in its turn, once each."""
    stations = [Script(name) for name in names(12)]
    for number, station in enumerate(stations):
        report = dated(energy=number)
        station.unasked = [(1000.0 + number * 0.61, station.frame(report, 0x83))]
    bench = RadioBench(stations)
    for name in names(12):
        bench.ask(name)
        bench.run(0.9)
    bench.run(10.0)
    # Before the first octets are out of the receiver nobody can know that somebody talks.
    unheard_s = bench.radio_settings.key_up_s + 17 * bench.radio_settings.octet_s
    for at, _, (first, second) in bench.radio.violations:
        assert second == MASTER
        begun = max(carrier.begins for carrier in bench.on_air() if carrier.talker == first and carrier.begins <= at)
        assert at - begun <= unheard_s, "the master never begins over what it hears"
    reports = len(bench.bench.shelf.data)
    assert reports >= 8
    assert bench.medium.counters.turns["reply"] == reports
    heard = [apdu for station in stations for _, apdu in station.heard if apdu.HEAD == b"\x08\x02"]
    assert reports - len(bench.radio.violations) <= len(heard) <= reports
