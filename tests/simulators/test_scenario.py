"""Scenario files: what they say is checked, unknown keys are errors, the examples are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulators.scenario import Scenario, ScenarioError, load, parse, settings_of, start_of

EXAMPLES = sorted((Path(__file__).parents[2] / "config" / "scenarios").glob("*.toml"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense = 1", "unknown field `nonsense`"),
        ("[fleet]\nterminal = 3", r"unknown field `terminal` - at `\$.fleet`"),
        ("[[event]]\nkind = 'flood'\nat_s = 1", r"'flood' - at `\$.event"),
        ("[[event]]\nkind = 'power_off'", "missing required field `at_s`"),
        ("[[event]]\nkind = 'power_off'\nat_s = 1\nterminals = [21]", "event 1: terminal 21"),
        ("[[event]]\nkind = 'power_off'\nat_s = 1\nmeter = 3", "event 1: meter 3"),
        ("[[fault]]\nat_s = 1\nterminals = [99]", "fault 1: terminal 99"),
        ("[line]\nsplit = 1.5", r"<= 1.0 - at `\$.line.split`"),
        ("[fleet]\nterminals = 0", ">= 1"),
        ("[fleet]\nfirst_address = '12X4'", "matching regex"),
        ("[fleet]\nfirst_address = '99'\nterminals = 3", "no room for 3"),
        ("[fleet]\nkinds = {office = 0.0}", "no kind"),
        ("[fleet]\nkinds = {castle = 1.0}", "castle"),
        ("[tasks]\nminute_s = 0.5", ">= 1"),
        ("[time]\nspeed = 0", "> 0"),
        ("[[quirk]]\nterminals = [21]\nsilent = true", "quirk 1: terminal 21"),
        ("[[quirk]]\nrelay_shares = [0.5, 0.4]", "quirk 1: relay_shares add up to 0.9"),
        ("[[quirk]]\nrelay_shares = []", "length >= 1"),
        ("[[quirk]]\nrelay_open_state = 2", "relay_open_state"),
        ("[[quirk]]\nanswers_late_s = { report = 1.0 }", "report"),
        ("[[quirk]]\nloud = true", "unknown field `loud`"),
        ("seed = ", "seed|value|Invalid"),
    ],
)
def test_what_a_scenario_cannot_say(text: str, complaint: str) -> None:
    with pytest.raises(ScenarioError, match=complaint) as caught:
        parse(text, "here.toml")
    assert str(caught.value).startswith("here.toml: ")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        load(tmp_path / "none.toml")


def test_addresses_follow_the_first_and_meters_are_nobodys_twice() -> None:
    made = settings_of(parse("[fleet]\nterminals = 3\nmeters = 2\nfirst_address = '000000000099'"))
    assert [s.address for s in made] == ["000000000099", "000000000100", "000000000101"]
    meters = [meter for s in made for meter in s.meters]
    assert meters == [f"5000000000{n:02d}" for n in range(1, 7)]


def test_the_seed_decides_who_is_what() -> None:
    def fleet(seed: int) -> list[object]:
        text = f"seed = {seed}\n[fleet]\nterminals = 200\nprotected = 0.25\nkinds = {{office = 0.5, home = 0.5}}"
        return list(settings_of(parse(text)))

    made = settings_of(parse("[fleet]\nterminals = 400\nprotected = 0.25\nkinds = {office = 0.5, home = 0.5}"))
    assert 60 < sum(s.protected for s in made) < 140
    assert 140 < sum(s.kind == "office" for s in made) < 260
    assert {s.kind for s in made} == {"office", "home"}
    assert fleet(1) == fleet(1)
    assert fleet(1) != fleet(2)


def test_events_reach_only_the_terminals_that_they_name() -> None:
    made = settings_of(
        parse(
            "[fleet]\nterminals = 4\n[[event]]\nkind = 'power_off'\nat_s = 5\nterminals = [2, 4]\n"
            "[[event]]\nkind = 'voltage_loss'\nat_s = 9"
        )
    )
    assert [[e.kind for e in s.events] for s in made] == [
        ["voltage_loss"],
        ["power_off", "voltage_loss"],
        ["voltage_loss"],
        ["power_off", "voltage_loss"],
    ]


def test_quirks_are_of_the_terminals_that_they_name_and_the_last_word_counts() -> None:
    made = settings_of(
        parse(
            """
            [fleet]
            terminals = 3
            [[quirk]]
            customer_closes_s = -1
            relay_shares = [0.5, 0.5]
            [[quirk]]
            terminals = [2]
            silent = true
            round_bits_lsb_first = true
            customer_closes_s = 5
            answers_late_s = { action = 2.5 }
            """
        )
    )
    assert [s.silent for s in made] == [False, True, False]
    assert [s.round_bits_lsb_first for s in made] == [False, True, False]
    assert [s.customer_closes_s for s in made] == [None, 5.0, None]
    assert made[1].answers_late_s == {"action": 2.5}
    assert {s.relay_shares for s in made} == {(0.5, 0.5)}


def test_a_rate_becomes_a_period_spread_over_the_fleet() -> None:
    scenario = parse("[fleet]\nterminals = 100\nmeters = 25\n[time]\nspeed = 10")
    made = settings_of(scenario, rate=50.0)
    # 100 terminals with three reports each, 50 a second: every 6 s of real time, 60 simulated.
    assert made[0].minute_s == pytest.approx(60.0)
    assert [made[n].phase_s for n in (0, 50)] == pytest.approx([0.0, 30.0])
    with pytest.raises(ScenarioError, match="speed of at least 5"):
        settings_of(parse("[fleet]\nterminals = 100"), rate=500.0)


def test_start_is_local_time_or_now() -> None:
    assert start_of(Scenario(), 1234.9) == 1234.0
    assert start_of(parse("[time]\nstart = 2026-03-02T08:00:00"), 0.0) == 1772409600.0


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_right(path: Path) -> None:
    scenario = load(path)
    assert len(settings_of(scenario)) == scenario.fleet.terminals
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_there_are_examples() -> None:
    assert {"office-day.toml", "faults.toml", "storm.toml"} <= {path.name for path in EXAMPLES}
