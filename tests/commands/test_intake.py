"""What comes in over MQTT: taken on, told again, taken back, or rejected with what is wrong and where."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_parts import (
    CLOSE_ARGS,
    READ_ARGS,
    TRIP_ARGS,
    NoonClock,
    Office,
    Scripted,
    given_up,
    office_of,
    port_of,
    serving,
)
from e2e_parts import BASE, metric, settings_of, until
from terminal_side import TERMINAL

from gateway.daemon import Gateway
from gateway.settings import load
from messages import Ack, encode

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

MEMBERS = ("000000000001", "000000000002", "000000000003")


class House:
    """A gateway, and who gives it orders."""

    def __init__(self, gateway: Gateway, office: Office, clock: NoonClock) -> None:
        self.gateway = gateway
        self.office = office
        self.clock = clock

    @property
    def port(self) -> int:
        return port_of(self.gateway)


@asynccontextmanager
async def house_of(
    broker: Mosquitto, path: Path, given: dict[str, object] | None = None, text: str = ""
) -> AsyncIterator[House]:
    """`given`: dotted settings; `text`: of the settings file."""
    clock = NoonClock()
    file = path / "gateway.toml"
    file.write_text(text)
    values = {**BASE, "node.data_dir": str(path / "data"), "mqtt.url": broker.url, **(given or {})}
    async with serving(load(file, values), clock) as gateway, office_of(broker) as office:
        yield House(gateway, office, clock)


async def rejected(house: House, name: str, error: str, text: str = "") -> Ack:
    """The command has just this status, with an error of this name that says so."""
    ack = await house.office.final(name)
    assert house.office.statuses(name) == ["rejected"]
    assert ack.error is not None
    assert ack.error.name == error
    assert ack.error.code is None
    assert text in ack.error.text
    assert ack.attempts == 0
    return ack


# --- expiry --------------------------------------------------------------------------------------------------------


async def test_a_command_expires_between_accept_and_login(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house:
        office = house.office
        name = await office.order("read", READ_ARGS)
        await office.status(name, "accepted")
        house.clock.forward(299.9)
        house.clock.forward(0.1)
        await office.final(name)
        assert office.statuses(name) == ["accepted", "expired"]
        async with Scripted().on(house.port) as terminal:
            other = await office.order("read", READ_ARGS, expires_at=house.clock.wall_ms + 1000)
            await office.final(other)
            assert terminal.said_to == ["05 01 00 40 01 02 00 00"]


async def test_expiry_is_looked_at_when_it_is_sent(broker: Mosquitto, tmp_path: Path) -> None:
    """Behind another command of the terminal, and while power guarantee is asked for."""
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port) as terminal:
        office = house.office
        terminal.hold = True
        first = await office.order("read", READ_ARGS)
        await office.status(first, "sent")
        second = await office.order("close", CLOSE_ARGS, expires_at=house.clock.wall_ms + 3000)
        await office.status(second, "accepted")
        house.clock.forward(4)
        await office.final(second)
        terminal.release()
        await office.final(first)
        assert office.statuses(second) == ["accepted", "expired"]
        terminal.hold = True
        third = await office.order("trip", TRIP_ARGS, expires_at=house.clock.wall_ms + 3000)
        await terminal.asked("05 01 00 80 01 02 00")
        house.clock.forward(4)
        await office.final(third)
        terminal.release()
        last = await office.order("read", READ_ARGS, expires_at=house.clock.wall_ms + 9000)
        await office.final(last)
        assert office.statuses(third) == ["accepted", "expired"]
        assert (terminal.trips, terminal.count("07 01 00 80 00 82")) == (0, 0)


async def test_one_that_comes_expired_is_never_sent(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port) as terminal:
        name = await house.office.order("read", READ_ARGS, expires_at=house.clock.wall_ms - 1500)
        ack = await house.office.final(name)
        assert house.office.statuses(name) == ["expired"]
        assert ack.error is not None
        assert "1500 ms in the past" in ack.error.text
        assert terminal.heard == []


async def test_a_query_without_answer_that_expires_is_timed_out(broker: Mosquitto, tmp_path: Path) -> None:
    """It was sent, so it is not `expired`, which says that it was not."""
    async with house_of(broker, tmp_path) as house:
        async with Scripted().on(house.port) as terminal:
            terminal.silent = True
            name = await house.office.order("read", READ_ARGS)
            await house.office.status(name, "sent")
        await until(lambda: not house.gateway.desk.commands.online(TERMINAL))  # type: ignore[union-attr]
        house.clock.forward(301)
        ack = await house.office.final(name)
        assert house.office.statuses(name) == ["accepted", "sent", "timed_out"]
        assert ack.attempts == 1


# --- taking back ---------------------------------------------------------------------------------------------------


async def test_cancelled_before_it_is_sent(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house:
        office = house.office
        name = await office.order("trip", TRIP_ARGS)
        await office.status(name, "accepted")
        await office.cancel(name)
        ack = await office.final(name)
        assert office.statuses(name) == ["accepted", "cancelled"]
        assert ack.error is not None
        assert "chief.li" in ack.error.text
        await office.cancel(name)
        await office.until(lambda: len([a for a in office.acks if a.command_id == name]) == 3)
        assert [ack.status for ack in office.acks if ack.command_id == name][-1] == "cancelled"
        async with Scripted().on(house.port) as terminal:
            await office.final(await office.order("read", READ_ARGS))
            assert terminal.trips == 0


async def test_cancelled_while_guarantee_is_asked_for(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port) as terminal:
        office = house.office
        terminal.hold = True
        name = await office.order("trip", TRIP_ARGS)
        await terminal.asked("05 01 00 80 01 02 00")
        await office.cancel(name)
        await office.final(name)
        follower = await office.order("read", READ_ARGS)
        terminal.release()
        await office.final(follower)
        assert office.statuses(name) == ["accepted", "cancelled"]
        assert terminal.trips == 0


async def test_a_cancel_after_sending_changes_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port) as terminal:
        office = house.office
        terminal.hold = True
        name = await office.order("close", CLOSE_ARGS, verify=False)
        sent = await office.status(name, "sent")
        await office.cancel(name)
        await office.until(lambda: [a.status for a in office.acks if a.command_id == name].count("sent") == 2)
        assert {ack.id for ack in office.acks if ack.status == "sent"} == {sent.id}
        terminal.release()
        await office.final(name)
        assert office.statuses(name)[-1] == "succeeded"


# --- ids -----------------------------------------------------------------------------------------------------------


async def test_the_same_id_is_the_same_command(broker: Mosquitto, tmp_path: Path) -> None:
    """Open or ended, also after a restart: told again, carried out once. With another body it is rejected."""
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port) as terminal:
        office = house.office
        terminal.hold = True
        command = office.command("close", CLOSE_ARGS, verify=False)
        await office.send(command)
        await office.status(command.id, "sent")
        await office.send(command)
        await office.until(lambda: [ack.status for ack in office.acks].count("sent") == 2)
        other = office.command("close", {"relays": [{"relay": 2}]}, id=command.id)
        await office.send(other)
        reused = await office.status(command.id, "rejected")
        assert reused.error is not None
        assert reused.error.name == "id_reused"
        terminal.release()
        await office.status(command.id, "succeeded")
        await office.send(command)
        await office.until(lambda: [ack.status for ack in office.acks].count("succeeded") == 2)
        again = [ack for ack in office.acks if ack.status == "succeeded"]
        assert again[0].id == again[1].id
        assert again[0].result == again[1].result
        await office.send(other)
        await office.until(lambda: [ack.status for ack in office.acks].count("rejected") == 2)
        assert terminal.count("07 01 00 80 00 82") == 1
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port) as terminal:
        await house.office.send(command)
        ack = await house.office.final(command.id)
        assert (ack.id, ack.status) == (again[0].id, "succeeded")
        assert terminal.heard == []


async def test_one_id_for_two_terminals_is_two_commands(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house:
        command = house.office.command("read", READ_ARGS)
        for member in MEMBERS[:2]:
            await house.office.send(command, member)
            await house.office.status(command.id, "accepted", member)
            assert house.office.statuses(command.id, member) == ["accepted"]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [True, False], ids=["while-connected", "at-connecting"])
async def test_a_retained_command_is_refused(broker: Mosquitto, tmp_path: Path, live: bool) -> None:
    clock = NoonClock()
    async with office_of(broker) as office:
        command = office.command("read", READ_ARGS)
        if not live:
            await office.send(command, retain=True)
        async with (
            serving(settings_of(tmp_path, broker.url), clock) as gateway,
            Scripted().on(port_of(gateway)) as terminal,
        ):
            if live:
                await office.send(command, retain=True)
            ack = await office.final(command.id)
            assert ack.error is not None
            assert (ack.status, ack.error.name) == ("rejected", "retained")
            assert terminal.heard == []
            await office.publish(office.topics.command(TERMINAL, "query"), b"", retain=True)
            await office.send(command)
            await office.status(command.id, "failed")
            assert terminal.said_to == ["05 01 00 40 01 02 00 00"]


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.pop(name)


def having(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(values)


MALFORMED = [
    (without("expires_at"), "bad_message", "expires_at"),
    (having(expires_at="soon"), "bad_message", "expires_at"),
    (having(priority=10), "bad_message", "priority"),
    (having(args=[1]), "bad_message", "args"),
    (having(v=2), "bad_message", "v"),
    (having(verb="reed"), "unknown_verb", "verb"),
    (having(verb="trip", args=TRIP_ARGS), "wrong_class", "verb: trip is of class control"),
    (having(args={}), "bad_argument", "args.points"),
    (having(args={"points": ["voltage"], "colour": 1}), "bad_argument", "args: no argument 'colour'"),
    (having(args={"points": ["no_such_thing"]}), "bad_argument", "args.points[0]"),
    (having(args={**READ_ARGS, "if_offline": "perhaps"}), "bad_argument", "args.if_offline"),
]


async def test_what_is_wrong_is_told_with_its_field(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port) as terminal:
        office = house.office
        for number, (spoil, error, text) in enumerate(MALFORMED):
            body = json.loads(encode(office.command("read", READ_ARGS, id=f"bad-{number}"), "json"))
            spoil(body)
            await office.publish(office.topics.command(TERMINAL, "query"), json.dumps(body).encode())
            await rejected(house, f"bad-{number}", error, text)
        assert terminal.heard == []


@pytest.mark.parametrize("payload", [b"", b"\xff\xff", b"{", b"[]", b'{"v":1}', b'{"v":1,"id":7}', b"\x81\xa2id\xa0"])
async def test_what_has_no_id_is_logged_and_done_with(broker: Mosquitto, tmp_path: Path, payload: bytes) -> None:
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port):
        await house.office.publish(house.office.topics.command(TERMINAL, "query"), payload)
        await house.office.final(await house.office.order("read", READ_ARGS))
        assert {ack.command_id for ack in house.office.acks} == {"c-1"}
        assert metric(house.gateway, "loadgate_downlink_failed_total") == 0


async def test_a_full_queue_is_busy_until_one_has_ended(broker: Mosquitto, tmp_path: Path) -> None:
    """Also ended ones that were never sent make room: they wait no longer."""
    async with house_of(broker, tmp_path, {"commands.max_per_terminal": 3}) as house:
        office = house.office
        names = [await office.order("read", READ_ARGS, expires_at=house.clock.wall_ms + 5000) for _ in range(4)]
        await rejected(house, names[3], "busy", "too many")
        elsewhere = await office.order("read", READ_ARGS, MEMBERS[0])
        await office.status(elsewhere, "accepted")
        await office.cancel(names[0])
        await office.final(names[0])
        another = await office.order("read", READ_ARGS, expires_at=house.clock.wall_ms + 5000)
        await office.status(another, "accepted")
        await rejected(house, await office.order("read", READ_ARGS), "busy")
        house.clock.forward(6)
        for name in (names[1], names[2], another):
            await office.final(name)
        for _ in range(3):
            await office.status(await office.order("read", READ_ARGS), "accepted")
        assert metric(house.gateway, "loadgate_commands_open") == 4


async def test_all_open_commands_are_bounded(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path, {"commands.max_open": 2}) as house:
        for member in MEMBERS[:2]:
            await house.office.status(await house.office.order("read", READ_ARGS, member), "accepted")
        await rejected(house, await house.office.order("read", READ_ARGS, MEMBERS[2]), "busy")


async def test_an_answer_after_the_timeout_is_late_and_changes_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port) as terminal:
        office = house.office
        terminal.hold = True
        name = await office.order("set_clock")
        await given_up(office, terminal, house.clock, name)
        ack = await office.final(name)
        assert (ack.status, ack.latency_ms) == ("unknown", None)
        terminal.release()
        late = await office.status(name, "late")
        assert not late.final
        assert late.result == {"done": {"clock": "success"}}
        assert late.latency_ms is not None
        assert late.latency_ms >= 10_000
        await office.send(office.command("set_clock", id=name, expires_at=house.clock.wall_ms))  # another body
        await office.status(name, "rejected")
        assert office.statuses(name) == ["accepted", "sent", "unknown", "late", "rejected"]
        query = await office.order("read", READ_ARGS, expires_at=house.clock.wall_ms + 300_000)
        terminal.hold = True
        await given_up(office, terminal, house.clock, query)
        terminal.release()
        await office.status(query, "late")
        assert office.statuses(query) == ["accepted", "sent", "timed_out", "late"]


async def test_a_late_answer_to_the_gateways_own_question_is_no_news(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port) as terminal:
        office = house.office
        terminal.hold = True
        name = await office.order("trip", TRIP_ARGS)
        await terminal.asked("05 01 00 80 01 02 00")
        house.clock.forward(61)
        await terminal.asked("05 01 00 80 01 02 00", 2)
        house.clock.forward(61)
        await until(lambda: house.gateway.desk.commands.jobs.get(name, TERMINAL).phase == "waiting")  # type: ignore[union-attr]
        terminal.release()
        house.clock.forward(6)
        await office.status(name, "succeeded")
        assert "late" not in office.statuses(name)
        assert terminal.trips == 1


async def test_if_offline_reject(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house:
        args = {**READ_ARGS, "if_offline": "reject"}
        await rejected(house, await house.office.order("read", args), "offline")
        async with Scripted().on(house.port):
            name = await house.office.order("read", args)
            await house.office.final(name)
            assert house.office.statuses(name) == ["accepted", "sent", "failed"]


async def test_a_dry_run_answers_with_the_octets_and_sends_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house, Scripted().on(house.port) as terminal:
        name = await house.office.order("trip", {**TRIP_ARGS, "dry_run": True})
        ack = await house.office.final(name)
        assert house.office.statuses(name) == ["succeeded"]
        octets = "070100800081000101020451F20502011101120000030000"
        assert ack.result == {"dry_run": True, "octets": [octets]}
        assert terminal.heard == []
        assert await house.gateway.desk.commands.ledger.tripped() == set()  # type: ignore[union-attr]


# --- groups --------------------------------------------------------------------------------------------------------


async def test_a_group_command_is_one_command_a_member(broker: Mosquitto, tmp_path: Path) -> None:
    text = f"[[groups]]\nname = 'east'\nterminals = {list(MEMBERS)}\n"
    async with house_of(broker, tmp_path, text=text) as house:
        office = house.office
        one, two = Scripted(MEMBERS[0]), Scripted(MEMBERS[1])
        two.refused[0x80017F] = 3
        async with one.on(house.port), two.on(house.port):
            command = office.command("power_guarantee", {"on": True}, verify=False)
            await office.publish(office.topics.group_command("east"), encode(command))
            await office.final(command.id, MEMBERS[0])
            await office.final(command.id, MEMBERS[1])
            await office.status(command.id, "accepted", MEMBERS[2])
            assert office.statuses(command.id, MEMBERS[0]) == ["accepted", "sent", "succeeded"]
            assert office.statuses(command.id, MEMBERS[1]) == ["accepted", "sent", "failed"]
            assert office.statuses(command.id, MEMBERS[2]) == ["accepted"]
            await office.cancel(command.id, MEMBERS[2])
            await office.final(command.id, MEMBERS[2])
            assert office.statuses(command.id, MEMBERS[2]) == ["accepted", "cancelled"]
        rows = await house.gateway.journal.query(  # type: ignore[union-attr]
            "SELECT terminal, member_of, status FROM command ORDER BY terminal"
        )
        statuses = ("succeeded", "failed", "cancelled")
        assert rows == [(member, "east", status) for member, status in zip(MEMBERS, statuses, strict=True)]


async def test_group_config_and_an_unknown_group(broker: Mosquitto, tmp_path: Path) -> None:
    text = f"[[groups]]\nname = 'east'\nterminals = ['{MEMBERS[0]}']\n"
    async with house_of(broker, tmp_path, text=text) as house, Scripted(MEMBERS[0]).on(house.port) as terminal:
        office = house.office
        lost = office.command("power_guarantee", {"on": True})
        await office.publish(office.topics.group_command("west"), encode(lost))
        wrong = office.command("set_clock")
        await office.publish(office.topics.group_command("east"), encode(wrong))
        right = office.command("set_clock")
        await office.publish(office.topics.group_config("east"), encode(right))
        await office.final(right.id)
        assert office.statuses(lost.id) == []
        assert office.statuses(wrong.id) == ["rejected"]
        assert terminal.said_to == ["06 01 00 40 00 02 00 1C 07 E9 0B 18 0A 1E 00 00"]


def has_heard(terminal: Scripted, frames: int) -> bool:
    return len(terminal.frames) >= frames


async def test_a_broadcast_reaches_every_link_and_asks_for_no_answer(broker: Mosquitto, tmp_path: Path) -> None:
    async with house_of(broker, tmp_path) as house:
        office, terminals = house.office, [Scripted(member) for member in MEMBERS]
        for terminal in terminals:
            await terminal.connect(house.port)
        name = house.gateway.channels[0].context.name
        topic = office.topics.group_config(f"channel.{name}")
        refused = [
            office.command("set_clock", expires_at=house.clock.wall_ms - 1),
            office.command("message", {"level": "normal", "number": 1, "text": "x"}),
        ]
        for command in refused:
            await office.publish(topic, encode(command))
        await office.publish(office.topics.group_config("channel.nowhere"), encode(office.command("set_clock")))
        await office.publish(topic, encode(office.command("set_clock")), retain=True)
        await office.publish(topic, encode(office.command("set_clock")))
        apdu = "07 01 00 40 00 7F 00 1C 07 E9 0B 18 0A 1E 00 00"
        for terminal in terminals:
            await terminal.until(partial(has_heard, terminal, 2))
            frame = terminal.frames[1].hex(" ").upper()
            assert frame.startswith("68 1A 00 43 C0 AA 10 ")
            assert frame[27:].startswith(apdu)
        await office.final(await office.order("read", READ_ARGS, MEMBERS[0]))
        assert all(len([f for f in terminal.frames if apdu in f.hex(" ").upper()]) == 1 for terminal in terminals)
        assert {ack.verb for ack in office.acks} == {"read"}
        for terminal in terminals:
            await terminal.disconnect()
