"""`loadgate send`, `cancel`, `control` as processes, with a real broker, a gateway and a scripted terminal."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from command_parts import (
    ALARM_STATE,
    COMMAND_STATE,
    RELAY_OUTPUT,
    Office,
    Scripted,
    office_of,
    port_of,
    rounds,
    serving,
)
from e2e_parts import BASE, free_port, settings_of
from terminal_side import TERMINAL

from cli.send import arguments_of
from messages import Ack, decode

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

READ = ("read", 'points=["40010200"]')
TRIP = ("trip", 'relays=[{"relay":1,"alarm_delay_min":0}]', "--approvals", "chief.li")


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def statuses(self) -> list[str]:
        """Third word of each line."""
        return [line.split()[2] for line in self.out.splitlines()]


async def loadgate(*words: str, seconds: float = 30.0) -> Result:
    """Run the command; no traceback ever."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert b"Traceback" not in err, err.decode()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


def test_arguments_are_json_where_they_are_json() -> None:
    assert arguments_of(["on=true", "text=请错峰", "n=1", 'l=["a"]', "e="], None) == {
        "on": True,
        "text": "请错峰",
        "n": 1,
        "l": ["a"],
        "e": "",
    }
    assert arguments_of(["group=2"], '{"group": 1, "on": false}') == {"group": 2, "on": False}
    assert arguments_of(["text=a=b"], None) == {"text": "a=b"}
    for pairs, given, said in (
        (["on"], None, "key=value"),
        (["=1"], None, "key=value"),
        ([], "{", "--json"),
        ([], "[1]", "an object"),
    ):
        with pytest.raises(ValueError, match=said):
            arguments_of(pairs, given)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("send", TERMINAL, "reed"), "no verb 'reed'"),
        (("send", TERMINAL, "read", "points"), "key=value"),
        (("send", TERMINAL, "read", "--json", "{"), "--json"),
        (("send", TERMINAL, *READ, "--mqtt", "http://x"), "--mqtt"),
        (("control", "perhaps"), "invalid choice"),
    ],
)
async def test_wrong_usage_is_2(words: tuple[str, ...], said: str) -> None:
    result = await loadgate(*words)
    assert (result.status, result.out) == (2, "")
    assert said in result.err


@pytest.mark.parametrize(
    "words",
    [("send", TERMINAL, *READ, "--wait"), ("send", TERMINAL, *READ), ("cancel", "c-1"), ("control", "off")],
    ids=["send-wait", "send", "cancel", "control"],
)
async def test_a_broker_that_is_away_is_said_in_a_line(words: tuple[str, ...]) -> None:
    port = free_port()
    result = await loadgate(*words, "--mqtt", f"mqtt://127.0.0.1:{port}")
    assert (result.status, result.out) == (1, "")
    assert len(result.err.splitlines()) == 1
    assert f"127.0.0.1:{port}" in result.err
    assert "Does the broker run there?" in result.err


async def test_every_status_is_printed_and_only_a_good_last_one_is_0(broker: Mosquitto, tmp_path: Path) -> None:
    to = ("--mqtt", broker.url, "--wait")
    async with (
        serving(settings_of(tmp_path, broker.url)) as gateway,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        good = await loadgate("send", TERMINAL, "set_clock", *to)
        assert (good.status, good.statuses) == (0, ["accepted", "sent", "succeeded"])
        assert '{"done": {' in good.out
        failed = await loadgate("send", TERMINAL, *READ, *to)
        assert (failed.status, failed.statuses) == (1, ["accepted", "sent", "failed"])
        assert "(DAR 4)" in failed.out
        assert "对象未定义" in failed.out
        rejected = await loadgate("send", TERMINAL, "read", *to)
        assert (rejected.status, rejected.statuses) == (1, ["rejected"])
        assert "bad_argument: args.points" in rejected.out
        unapproved = await loadgate("send", TERMINAL, *TRIP[:2], *to)
        assert (unapproved.status, unapproved.statuses) == (1, ["rejected"])
        terminal.values.update({RELAY_OUTPUT: rounds(0x80), COMMAND_STATE: rounds(0x80), ALARM_STATE: rounds(0)})
        trip = await loadgate("send", TERMINAL, *TRIP, *to, "--output", "json")
        acks = [decode(line.encode(), Ack) for line in trip.out.splitlines()]
        assert (trip.status, [ack.status for ack in acks]) == (0, ["accepted", "sent", "succeeded", "verified"])
        unverified = await loadgate("send", TERMINAL, *TRIP, *to, "--no-verify")
        assert (unverified.status, unverified.statuses[-1]) == (0, "succeeded")
        dry = await loadgate("send", TERMINAL, *TRIP[:2], "dry_run=true", *TRIP[2:], *to)
        assert (dry.status, dry.statuses) == (0, ["succeeded"])
        assert '"octets": ["07010080008100' in dry.out
        assert terminal.trips == 2


async def test_without_wait_it_prints_the_id(broker: Mosquitto, tmp_path: Path) -> None:
    async with (
        serving(settings_of(tmp_path, broker.url)) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        result = await loadgate("send", TERMINAL, "--json", '{"points": ["40010200"]}', "read", "--mqtt", broker.url)
        assert (result.status, result.err) == (0, "")
        await office.final(result.out.strip())
        assert terminal.said_to == ["05 01 00 40 01 02 00 00"]
        same = ("send", TERMINAL, "message", "level=normal", "number=1", "text=请错峰用电", "--mqtt", broker.url)
        await loadgate(*same, "--id", "dispatch-17", "--by", "duty.wang", "--priority", "9", "--expires", "600")
        ack = await office.final("dispatch-17")
        assert ack.status == "succeeded"
        assert gateway.journal is not None
        rows = await gateway.journal.query("SELECT body, expires_at FROM command WHERE id = 'dispatch-17'")
        assert b"duty.wang" in rows[0][0]
        assert rows[0][1] / 1000 - time() == pytest.approx(600, abs=30)


async def test_it_gives_up_where_it_is_told_to(broker: Mosquitto, tmp_path: Path) -> None:
    """Nobody takes it on: until it has expired, and a little more. The terminal is away: until the given time."""
    alone = await loadgate("send", TERMINAL, *READ, "--mqtt", broker.url, "--wait", "--expires", "-29.5")
    assert (alone.status, alone.out) == (1, "")
    assert "no final status" in alone.err
    async with serving(settings_of(tmp_path, broker.url)):
        away = await loadgate("send", TERMINAL, *READ, "--mqtt", broker.url, "--wait", "--timeout", "1")
        assert (away.status, away.statuses) == (1, ["accepted"])
        assert "within 1 s" in away.err


async def test_a_group_is_followed_to_the_last_of_its_members(broker: Mosquitto, tmp_path: Path) -> None:
    from gateway.settings import load

    members = ["000000000001", "000000000002"]
    file = tmp_path / "gateway.toml"
    file.write_text(f"[[groups]]\nname = 'east'\nterminals = {members}\n")
    settings = load(file, {**BASE, "node.data_dir": str(tmp_path / "data"), "mqtt.url": broker.url})
    words = ("send", "group:east", "power_guarantee", "on=true", "--no-verify", "--wait", "--mqtt", broker.url)
    async with serving(settings) as gateway:
        one, two = (Scripted(member) for member in members)
        async with one.on(port_of(gateway)), two.on(port_of(gateway)):
            two.hold = True
            sending = asyncio.create_task(loadgate(*words))
            await two.asked("07 01 00 80 01 7F")
            two.release()
            good = await sending
            assert (good.status, sorted(good.statuses)) == (0, sorted(["accepted", "sent", "succeeded"] * 2))
            two.refused[0x80017F] = 3
            bad = await loadgate(*words)
            assert (bad.status, bad.statuses.count("failed")) == (1, 1)


async def waiting(office: Office, number: int) -> str:
    """A command that waits for a terminal that is away."""
    command = office.command("read", {"points": ["voltage"]}, id=f"w-{number}", expires_at=int(time() * 1000) + 600_000)
    await office.send(command, "000000000009")
    await office.status(command.id, "accepted")
    return command.id


async def test_cancel(broker: Mosquitto, tmp_path: Path) -> None:
    to = ("--node", "n1", "--mqtt", broker.url)
    async with (
        serving(settings_of(tmp_path, broker.url)) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        name = await waiting(office, 1)
        result = await loadgate("cancel", name, *to, "--by", "chief.li")
        assert (result.status, result.statuses) == (0, ["cancelled"])
        assert "taken back by chief.li" in result.out
        other = await waiting(office, 2)
        part = await loadgate("cancel", other, "--terminal", "000000000009", *to)
        assert (part.status, part.statuses) == (0, ["cancelled"])
        terminal.hold = True
        office.now = int(time() * 1000)
        sent = await office.order("set_clock")
        await office.status(sent, "sent")
        late = await loadgate("cancel", sent, *to)
        assert (late.status, late.statuses) == (1, ["sent"])
        unknown = await loadgate("cancel", "nobody", *to, "--timeout", "0.5")
        assert (unknown.status, unknown.out) == (1, "")
        assert "n1 knows no command nobody" in unknown.err


async def test_control(broker: Mosquitto, tmp_path: Path) -> None:
    to = ("--node", "n1", "--mqtt", broker.url)
    async with serving(settings_of(tmp_path, broker.url)) as gateway, office_of(broker) as office:
        await office.until(lambda: bool(office.nodes))
        assert await loadgate("control", "status", *to) == Result(0, "n1: online, control on\n", "")
        assert await loadgate("control", "off", "--reason", "test", *to) == Result(0, "n1: online, control off\n", "")
        assert gateway.desk is not None
        assert gateway.desk.control is False
        rejected = await loadgate("send", TERMINAL, *TRIP, "--mqtt", broker.url, "--wait")
        assert (rejected.status, rejected.statuses) == (1, ["rejected"])
        assert "control_off" in rejected.out
        assert await loadgate("control", "on", *to) == Result(0, "n1: online, control on\n", "")
    gone = await loadgate("control", "off", "--node", "n9", "--mqtt", broker.url, "--timeout", "0.5")
    assert (gone.status, gone.out) == (1, "")
    assert "n9 does not answer" in gone.err
