"""One example of every message, as the documents show it and the tests check it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from messages.codec import encode
from messages.model import (
    Ack,
    AckError,
    Alarm,
    CancelRequest,
    CollectionQuality,
    CollectionRatio,
    Column,
    Command,
    ControlSwitch,
    Message,
    NodeStatus,
    Raw,
    Reading,
    ReplayRequest,
    State,
)

_UP: Final[dict[str, Any]] = {
    "seq": 41_207,
    "node": "gate-1",
    "terminal": "112233445566",
    "channel": "tcp-main",
    "received_at": 1_767_196_803_120,
}

EXAMPLES: Final[dict[type[Message], Message]] = {
    type(message): message
    for message in (
        Reading(
            **_UP,
            id="5f0c8be14f1c09a3",
            cause="report",
            series="minute",
            columns=(
                Column(name="active_energy_import.total", unit="kWh", scale=-2, oad="00100200"),
                Column(name="voltage.a", unit="V", scale=-1, oad="20000200"),
                Column(name="oad:40010200", oad="40010200"),
            ),
            rows=[
                ["000000000001", 1_767_196_800_000, 1234.56, 220.3, "112233445566"],
                [None, 1_767_196_800_000, 80.0, None, "112233445566"],
            ],
        ),
        Alarm(
            **_UP,
            id="0a6d22b7c1e94f58",
            logical_address=1,
            event="voltage_loss",
            oi="3000",
            phase="a",
            meter="000000000001",
            record_no=17,
            transition="recorded",
            occurred_at=1_767_196_200_000,
            ended_at=1_767_196_500_000,
            severity="warning",
            values={"voltage.a": 12.4, "voltage.b": 220.1, "voltage.c": 219.8},
        ),
        State(
            **_UP,
            id="b39b1d3c55f0e7aa",
            presence="online",
            reason="login",
            since=1_767_196_803_120,
            last_seen=1_767_196_803_120,
            peer="192.0.2.17:40211",
            heartbeat_s=300,
            clock_offset_ms=-1_250,
        ),
        Raw(
            **_UP,
            id="7d41f02a9c6b3e15",
            direction="down",
            frame="681700430502000000000010485E050115F1010200001A0016",
        ),
        Ack(
            **_UP,
            id="e2c81f6b0d7a4935",
            command_id="dispatch-2026-0017",
            verb="trip",
            status="failed",
            final=True,
            at=1_767_196_803_119,
            attempts=1,
            latency_ms=412,
            error=AckError(code=3, name="read_write_denied", text="the terminal refused: read-write denied"),
        ),
        Command(
            id="dispatch-2026-0017",
            verb="trip",
            args={"relays": [{"relay": 1, "alarm_delay_min": 10, "limit_min": 60, "auto_close": False}]},
            issued_by="dispatcher.wang",
            expires_at=1_767_197_100_000,
            priority=9,
            approvals=["chief.li"],
        ),
        NodeStatus(node="gate-1", status="online", version="0.1.0", channels=["tcp-main", "radio-230"]),
        ReplayRequest(from_seq=41_000, to_seq=41_206),
        CollectionQuality(
            node="gate-1",
            at=1_767_196_800_000,
            ratios=[
                CollectionRatio(
                    plan="curve",
                    kind="fill",
                    period="day",
                    start=1_767_110_400_000,
                    end=1_767_196_800_000,
                    owed=192,
                    first=190,
                    cycle=192,
                    first_ratio=0.9896,
                    cycle_ratio=1.0,
                )
            ],
        ),
        CancelRequest(command_id="dispatch-2026-0017", issued_by="dispatcher.wang"),
        ControlSwitch(control="off", issued_by="chief.li", reason="maintenance of the dispatch system"),
    )
}
"""Every message type with its example."""


def as_json(kind: type[Message]) -> dict[str, Any]:
    """The example of `kind` as a reader of JSON sees it."""
    plain: dict[str, Any] = msgspec.json.decode(encode(EXAMPLES[kind], "json"))
    return plain
