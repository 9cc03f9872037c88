"""The main road: 200 simulated terminals, every report published once and acknowledged after its commit."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e_parts import Peer, Watched, consuming, fleet_through, metric, running, settings_of
from terminal_side import dated, login

from cli.tally import Tally
from gateway.journal_store import Row, Store, connect_reader
from messages import Topics, decode
from simulators.scenario import parse
from simulators.truth import TrueReport

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

TERMINALS, REPORTS = 200, 4
SCENARIO = parse(
    f"""
    seed = 11
    [fleet]
    terminals = {TERMINALS}
    meters = 2
    heartbeat_s = 10
    scrambled = 0.1
    [time]
    start = 2026-03-02T09:00:00
    speed = 600
    [tasks]
    minute_s = 900
    [[event]]
    kind = "voltage_loss"
    at_s = 300
    duration_s = 600
    [[event]]
    kind = "meter_cover_open"
    at_s = 700
    duration_s = 300
    terminals = [1, 2, 3, 4, 5]
    """
)


class FileTally(Tally):
    """Reads the journal's file as another process would: only what is committed is seen."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._db = connect_reader(path)
        self._seen = 0
        self._topics = Topics()
        self.rows_seen = 0

    def catch_up(self) -> None:
        for seq, topic, payload in self._db.execute(
            "SELECT seq, topic, payload FROM row WHERE seq > ? ORDER BY seq", (self._seen,)
        ):
            self._seen = seq
            self.rows_seen += 1
            self.take(decode(payload, self._topics.parse(topic).message))

    def close(self) -> None:
        self._db.close()


@pytest.mark.parametrize("form", ["msgpack", "json"])
async def test_each_report_is_published_once_and_acknowledged_after_its_commit(
    broker: Mosquitto, tmp_path: Path, form: str
) -> None:
    settings = settings_of(tmp_path, broker.url, {"mqtt.format": form})
    too_early: list[str] = []
    async with running(settings) as gateway, consuming(broker) as consumer:
        with contextlib.closing(FileTally(settings.journal_path)) as file:

            def look(report: TrueReport) -> None:
                """The terminal has just read its acknowledgement: the file must hold all that it said."""
                file.catch_up()
                verdict = file.judge([report])
                too_early.extend(verdict.missing + verdict.false)

            truth = Watched(look)
            fleet, summary = await fleet_through(
                gateway.channels[0].port, SCENARIO, truth=truth, rate=250.0, reports_per_terminal=REPORTS
            )
            # A message a report, and of each terminal the state at its login and at its logout.
            last = TERMINALS * REPORTS + 2 * TERMINALS
            await consumer.until(lambda: len(consumer.seqs) >= last)
            file.catch_up()
        histogram = metric(gateway, "loadgate_acknowledgement_seconds_count")

    assert summary.complete
    assert summary.acknowledged == TERMINALS * REPORTS
    assert too_early == []
    verdict = consumer.tally.judge(fleet.truth.reports)
    assert (verdict.missing, verdict.false) == ([], [])
    assert verdict.alarms == len([r for r in fleet.truth.reports if r.kind == "event"]) >= TERMINALS
    assert len(consumer.tally.present) == TERMINALS

    assert summary.retries == 0
    assert consumer.tally.repeated == 0
    assert consumer.doubled() == []
    assert sorted(consumer.seqs) == list(range(1, last + 1))
    assert file.rows_seen == last
    assert len([m for m in consumer.messages if getattr(m, "seq", 0)]) == last
    assert set(consumer.formats) == {form}
    assert histogram == summary.acknowledged


async def test_no_acknowledgement_leaves_before_the_commit(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is held back: the login is answered, the report is not, until the commit is let go."""
    gate, entered, commit = threading.Event(), threading.Event(), Store.commit

    def held(store: Store, rows: Sequence[Row], **how: Any) -> int:
        if any(row.topic.endswith("/reading") for row in rows):
            entered.set()
            assert gate.wait(20)
        return commit(store, rows, **how)

    monkeypatch.setattr(Store, "commit", held)
    settings = settings_of(tmp_path, broker.url)
    try:
        async with (
            running(settings) as gateway,
            consuming(broker) as consumer,
            Peer.on(gateway.channels[0].port) as peer,
        ):
            assert (await peer.ask(login(), 0x81)).SERVICE == "LINK-Response"
            peer.say(dated(piid=5))
            assert await asyncio.to_thread(entered.wait, 10)
            # Heartbeats are answered meanwhile, so the silence is about the report.
            for _ in range(3):
                assert (await peer.ask(login(kind=1), 0x81)).SERVICE == "LINK-Response"
            with contextlib.closing(sqlite3.connect(settings.journal_path)) as db:
                assert db.execute("SELECT count(*) FROM row WHERE topic LIKE '%/reading'").fetchone() == (0,)
            assert consumer.readings == []
            gate.set()
            response = await peer.answer()
            assert (response.SERVICE, int(response.piid)) == ("ReportResponseRecordList", 5)
            await consumer.until(lambda: consumer.readings)
    finally:
        gate.set()
