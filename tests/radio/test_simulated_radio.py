"""The simulated radio itself: time on the air, collisions, errors. A medium that forgives would prove nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from radio_parts import Script, get, names

from simulators.radio import MASTER, Radio, RadioSettings
from wire698 import model
from wire698.frame import Address, Frame, Framer, build_frame

ONE, TWO = names(2)


def request(name: str = ONE) -> bytes:
    return build_frame(0x43, Address.of(name), 0x10, model.build(get()))


def run(radio: Radio, until: float) -> list[tuple[float, bytes]]:
    """Go from deadline to deadline; what the master hears, and when."""
    heard: list[tuple[float, bytes]] = []
    while (due := radio.deadline()) is not None and due <= until:
        octets = radio.tick(due)
        if octets:
            heard.append((due, octets))
    return heard


def frames(heard: list[tuple[float, bytes]]) -> list[Frame]:
    return [found for found in Framer().feed(b"".join(octets for _, octets in heard)) if isinstance(found, Frame)]


@pytest.mark.parametrize("bit_rate", [1200, 9600])
def test_octets_take_their_time(bit_rate: int) -> None:
    settings = RadioSettings(bit_rate=bit_rate, propagation_s=0.001)
    radio = Radio(settings, [Script(ONE)])
    radio.write(request(), 10.0)
    heard = run(radio, 60.0)
    (answer,) = frames(heard)
    down, up = len(request()) * 11 / bit_rate, (4 + len(answer.raw)) * 11 / bit_rate
    expected = 10.0 + down + 0.001 + settings.turn_s + settings.key_up_s + up + 0.001
    assert heard[-1][0] == pytest.approx(expected)
    assert all(later - earlier <= 16 * 11 / bit_rate + 1e-9 for (earlier, _), (later, _) in pairwise(heard))
    assert [carrier.talker for carrier in radio.carriers] == [MASTER, ONE]
    assert not radio.violations


def test_two_at_once_destroy_both() -> None:
    radio = Radio(RadioSettings(), [Script(ONE), Script(TWO)])
    radio.write(request(), 10.0)
    run(radio, 10.0 + len(request()) * radio.settings.octet_s + 0.03)  # the answer's carrier is up
    radio.write(request(TWO), 10.12)
    heard = run(radio, 60.0)
    assert not frames(heard)
    assert len(b"".join(octets for _, octets in heard)) > 100, "it was heard, as noise"
    assert [(violation.rule, violation.talkers) for violation in radio.violations] == [("collision", (ONE, MASTER))]
    assert [len(station.heard) for station in radio.stations if isinstance(station, Script)] == [1, 0]


def test_a_master_without_a_guard_is_not_heard() -> None:
    stations = [Script(ONE), Script(TWO)]
    radio = Radio(RadioSettings(switch_s=0.01), stations)
    radio.write(request(), 10.0)
    end = run(radio, 60.0)[-1][0]
    radio.write(request(TWO), end + 0.005)
    assert not run(radio, 60.0)
    assert [violation.rule for violation in radio.violations] == ["turnaround"]
    radio.write(request(TWO), 70.0)
    assert frames(run(radio, 80.0))
    assert len(radio.violations) == 1


def test_a_carrier_without_octets_disturbs_too() -> None:
    radio = Radio(RadioSettings(), [Script(ONE)])
    radio.write(request(), 10.0)
    run(radio, 10.0 + len(request()) * radio.settings.octet_s + 0.03)
    radio.key(True, 10.12)
    radio.key(False, 10.13)
    assert not frames(run(radio, 60.0))
    assert [violation.rule for violation in radio.violations] == ["collision"]


@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_bit_errors_come_as_often_as_they_should_and_by_the_seed(rate: float) -> None:
    def run_once(seed: int) -> tuple[int, bytes]:
        radio = Radio(RadioSettings(bit_error_rate=rate, seed=seed, echo=False), [Script(ONE)])
        at, heard = 10.0, b""
        for _ in range(60):
            radio.write(request(), at)
            at += 5.0
            heard += b"".join(octets for _, octets in run(radio, at))
        bits = sum(carrier.octets for carrier in radio.carriers) * 8
        assert 0.5 * rate < radio.bit_errors / bits < 1.7 * rate
        return radio.bit_errors, heard

    assert run_once(1) == run_once(1)
    assert run_once(1) != run_once(2)


def test_unasked_stations_wait_for_silence() -> None:
    stations = [Script(name) for name in names(6)]
    for station in stations:
        station.unasked = [(10.0, station.frame(get()))]
    stations[0].unasked = [(9.9, stations[0].frame(get()))]
    radio = Radio(RadioSettings(seed=3), stations)
    heard = run(radio, 60.0)
    assert len(radio.carriers) == 6
    assert len(frames(heard)) >= 6 - 2 * len(radio.violations)
    assert len(frames(heard)) >= 1
