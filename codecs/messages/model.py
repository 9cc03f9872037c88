"""The messages of the MQTT contract, version 1: what the gateway says and what it is told.

Every message is one map, MessagePack or JSON, with the field names below. The docstring of a class
describes its fields one a line, `name: text`; the JSON Schemas and the AsyncAPI document take their
descriptions from there, so a field is described in one place.

Conventions for all messages: instants are integers, milliseconds since 1970 UTC; values are
engineering values (scaler 换算 already applied) as the nearest double of an exact decimal; NULL and
all-FF patterns are null, never 0; octets are hexadecimal text. Structs are mutable because the
gateway stamps `node`, `channel`, `seq` and `received_at` on the way out. Nothing is checked when a
message is made; `decode` checks what comes in.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

VERSION = 1
"""The `v` of every message here. Removals and renames make it 2; additions do not."""

MAX_NESTING = 32
"""How deep lists and maps may nest inside one value; deeper is refused by `decode`."""

Value: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None
"""One value. Inside lists and maps there are again only values, with text as keys; `decode` sees to it."""

Cause: TypeAlias = Literal["report", "read", "poll", "backfill"]
Series: TypeAlias = Literal["instant", "minute", "hour", "day", "month", "event", "other"]
Transition: TypeAlias = Literal["raised", "cleared", "recorded"]
Severity: TypeAlias = Literal["info", "warning", "critical"]
Phase: TypeAlias = Literal["a", "b", "c"]
Presence: TypeAlias = Literal["online", "suspect", "offline"]
NodePresence: TypeAlias = Literal["online", "offline"]
Direction: TypeAlias = Literal["up", "down"]
Switch: TypeAlias = Literal["on", "off"]
CommandClass: TypeAlias = Literal["query", "config", "control"]
Status: TypeAlias = Literal[
    "accepted",
    "sent",
    "succeeded",
    "failed",
    "timed_out",
    "unknown",
    "verified",
    "not_effective",
    "rejected",
    "expired",
    "cancelled",
    "late",
]

COMMAND_CLASSES: frozenset[str] = frozenset(get_args(CommandClass))
STATUSES: frozenset[str] = frozenset(get_args(Status))

PASSING_STATUSES: frozenset[str] = frozenset({"accepted", "sent", "late"})
"""Never final. `late` comes after the final status and changes nothing."""

VERIFIABLE_STATUSES: frozenset[str] = frozenset({"succeeded", "unknown"})
"""Final, unless the command is a control to be verified: then `verified` or `not_effective` follows, or, where nothing
that can be read tells, a final `unknown` with the error `unreadable`."""

FINAL_STATUSES: frozenset[str] = STATUSES - PASSING_STATUSES
"""Every status that can end a command; `is_final` says whether it does."""

VERBS: dict[str, frozenset[str]] = {
    "query": frozenset({"read", "read_record", "read_meter", "transparent"}),
    "config": frozenset({"write", "set_clock", "message", "delete_message", "configure_reporting", "apdu"}),
    "control": frozenset(
        {
            "trip",
            "close",
            "alarm",
            "power_guarantee",
            "arrears_alarm",
            "period_control",
            "rest_control",
            "suspension_control",
            "float_down",
            "purchase",
            "monthly_control",
            "release",
        }
    ),
}
"""The verbs of each class of command. A verb belongs to one class; the topic's must agree with it."""

_CLASS_OF_VERB: dict[str, CommandClass] = {
    verb: command_class for command_class in get_args(CommandClass) for verb in VERBS[command_class]
}


def is_final(status: Status, *, verified: bool) -> bool:
    """Whether `status` ends its command; `verified` tells that the command is a control with `verify` set."""
    return status in FINAL_STATUSES and not (verified and status in VERIFIABLE_STATUSES)


def class_of_verb(verb: str) -> CommandClass | None:
    """The class that `verb` belongs to, None for an unknown verb (which is acknowledged as `rejected`)."""
    return _CLASS_OF_VERB.get(verb)


_V = Annotated[int, Meta(extra_json_schema={"const": VERSION})]
_MessageId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$", max_length=16)]
_Name = Annotated[str, Meta(min_length=1, max_length=128)]
_Count = Annotated[int, Meta(ge=0)]
_Verb = Annotated[str, Meta(extra_json_schema={"examples": sorted(_CLASS_OF_VERB)})]


class Message(Struct, kw_only=True):
    """What all messages have.

    v: version of this contract, always 1; a message with another one is not read
    """

    v: _V = VERSION


class Up(Message, kw_only=True):
    """What all messages about a terminal have.

    id: 16 hexadecimal digits, a hash of what was said: a retransmission has the same id for ever
    seq: row of the node's journal; a gap can be asked for again by a ReplayRequest
    node: name of the gateway node
    terminal: server address of the terminal (终端地址) as printed digits, leading zeros kept
    protocol: protocol that the terminal speaks
    channel: name of the channel (信道) that it came through
    received_at: instant of receipt, ms since 1970 UTC
    logical_address: logical address of the server (逻辑地址); absent when 0
    """

    id: _MessageId
    seq: _Count = 0
    node: str = ""
    terminal: _Name
    protocol: str = "dlt698.45"
    channel: str = ""
    received_at: int
    logical_address: _Count | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.logical_address == 0:
            self.logical_address = UNSET


class Column(Struct, kw_only=True, frozen=True, gc=False):
    """One column of a Reading. Immutable, so that the readings of one layout may share their columns.

    name: object, then element: `active_energy_import.total`, `voltage.a`; an unknown object is `oad:40010200`
    unit: unit of the values (单位), null when there is none or it is not known
    scale: power of ten of the scaler (换算): `round(value, -scale)` is the exact number; null when none
    oad: object attribute descriptor (对象属性描述符, OAD), 8 hexadecimal digits
    """

    name: str
    unit: str | None = None
    scale: int | None = None
    oad: str


class Reading(Up, kw_only=True):
    """The data of one record set of one frame (数据), on `terminal/{terminal}/reading`.

    cause: why it came: sent by the terminal, asked by a command, polled, or fetched to fill a gap
    command_id: the command that it answers; absent when none
    series: kind of freeze (冻结) that the columns hang on
    columns: the columns, one for each cell of a row after the two leading ones
    rows: each `[meter, time, value, ...]`; meter: its address, null for the terminal's own data; time: the
      instant that the data belongs to (data freeze time 2021, else start of collection 6040, else store
      time 6042), or null
    """

    cause: Cause
    command_id: str | UnsetType = UNSET
    series: Series
    columns: tuple[Column, ...]
    rows: list[list[Value]]


class Alarm(Up, kw_only=True):
    """An event of a terminal or of a meter (事件), on `terminal/{terminal}/alarm`.

    event: slug of the event: `voltage_loss`, `power_off`; an unknown one is `event:3xxx`
    oi: object identifier (对象标识, OI) of the event, 4 hexadecimal digits
    phase: the phase (相别) concerned, null when none or all
    meter: address of the meter (电能表), null for the terminal's own event
    record_no: number of the event record (事件记录序号)
    transition: `raised` (发生), `cleared` (恢复), or `recorded`: begun and ended when told
    occurred_at: start of the event, ms since 1970 UTC
    ended_at: end of the event, ms since 1970 UTC
    source: source of the event (事件发生源, 2024): its text, or the plain value
    severity: how bad it is
    values: the other data of the record, name to value
    """

    event: str
    oi: str
    phase: Phase | None = None
    meter: str | None = None
    record_no: int | None = None
    transition: Transition
    occurred_at: int | None = None
    ended_at: int | None = None
    source: Value = None
    severity: Severity
    values: dict[str, Value]


class State(Up, kw_only=True):
    """Whether a terminal is there (在线状态), retained on `terminal/{terminal}/state`.

    presence: follows valid frames against the promised heartbeat (心跳), not the socket
    reason: slug of why it changed: `login`, `logout`, `heartbeat_missed`
    since: instant of this presence, ms since 1970 UTC
    last_seen: instant of the last valid frame, ms since 1970 UTC
    peer: network or line address that it spoke from last
    heartbeat_s: promised heartbeat period (心跳周期), seconds
    clock_offset_ms: terminal's clock minus ours, ms; null until measured
    """

    presence: Presence
    reason: str
    since: int
    last_seen: int | None = None
    peer: str | None = None
    heartbeat_s: int | None = None
    clock_offset_ms: int | None = None


class Raw(Up, kw_only=True):
    """One frame as it was on the line (原始报文), on `terminal/{terminal}/raw/up` or `/down`; opt-in.

    direction: `up` from the terminal, `down` to it; the same as in the topic
    frame: the octets of the frame, hexadecimal
    """

    direction: Direction
    frame: str


class AckError(Struct, kw_only=True):
    """Why a command did not succeed.

    code: the terminal's data access result (数据访问结果, DAR), null when the gateway refused
    name: slug of the error: `read_write_denied`, `busy`, `expired`
    text: for people, one line
    """

    code: int | None = None
    name: str
    text: str = ""


class Ack(Up, kw_only=True):
    """One status of one command, on `terminal/{terminal}/ack`.

    command_id: `id` of the command
    verb: `verb` of the command
    status: where the command is now
    final: true when no status but `late` follows
    at: instant of this status, ms since 1970 UTC
    attempts: how many times it was sent to the terminal
    latency_ms: from the last sending to the answer, ms; null when there is none
    error: why it did not succeed, null when there is nothing to tell
    result: what the terminal answered, null when nothing
    """

    command_id: str
    verb: str
    status: Status
    final: bool
    at: int
    attempts: _Count = 0
    latency_ms: int | None = None
    error: AckError | None = None
    result: Value = None


class Command(Message, kw_only=True):
    """An order to a terminal or a group of them (命令), on `terminal/{terminal}/command/{class}` or
    `group/{group}/command/control`.

    The verb is not checked by a reader: the gateway acknowledges one that is unknown or of another class as
    `rejected`. A retained command is refused: it would act again on every restart.

    id: the caller's, unique; with the same body it is the same command, with another body it is rejected
    verb: what to do; the class of the topic must be the verb's
    args: arguments of the verb
    issued_by: person or system that gives the order
    expires_at: instant after which it must not be sent, ms since 1970 UTC
    priority: 0 to 9, 9 goes first
    verify: for a control: read the effect back afterwards
    approvals: names of those who approved it
    """

    id: _Name
    verb: _Verb
    args: dict[str, Value] = {}
    issued_by: str
    expires_at: int
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    verify: bool = True
    approvals: Annotated[list[str], Meta(max_length=32)] = []


class NodeStatus(Message, kw_only=True):
    """Whether a gateway node is there, retained on `node/{node}/status`; `offline` is its last will (遗嘱).

    node: name of the node
    status: `online` or `offline`
    version: version of the gateway's software
    channels: names of its channels (信道)
    control: `off` while the node's kill switch rejects every control
    """

    node: _Name
    status: NodePresence
    version: str = ""
    channels: list[str] = []
    control: Switch = "on"


class CollectionRatio(Struct, kw_only=True):
    """How complete one plan was in one period.

    plan: name of the plan
    kind: `poll` (轮询), or `fill` (补采): data that terminals owe
    period: what is counted over
    start: beginning of the period, ms since 1970 UTC
    end: end of the period, ms since 1970 UTC
    owed: values or slots that were due
    first: those that came in the first round
    cycle: those that came in the end
    first_ratio: 一次采集成功率, null when nothing was owed
    cycle_ratio: 周期采集成功率, null when nothing was owed
    """

    plan: str
    kind: Literal["poll", "fill"]
    period: Literal["hour", "day", "month"]
    start: int
    end: int
    owed: int
    first: int
    cycle: int
    first_ratio: float | None = None
    cycle_ratio: float | None = None


class CollectionQuality(Message, kw_only=True):
    """Quality of collection (采集质量), once an hour, on `node/{node}/collection`.

    node: name of the node
    at: instant of the count, ms since 1970 UTC
    ratios: one for each plan and period
    """

    node: _Name
    at: int
    ratios: list[CollectionRatio]


class ReplayRequest(Message, kw_only=True):
    """Asks a node to publish journal rows again, on `node/{node}/replay`.

    from_seq: first row
    to_seq: last row, included; not less than from_seq
    """

    from_seq: _Count
    to_seq: _Count


class CancelRequest(Message, kw_only=True):
    """Takes back a command that has not been sent, on `node/{node}/cancel`; answered by an Ack with its status.

    command_id: `id` of the command
    terminal: one terminal of a group command; absent: all of them
    issued_by: person or system that takes it back
    """

    command_id: _Name
    terminal: _Name | UnsetType = UNSET
    issued_by: str


class ControlSwitch(Message, kw_only=True):
    """The kill switch (总闸) for all controls of a node, on `node/{node}/control`; its NodeStatus tells the effect.

    control: `off` rejects every control from now on, those that wait included; `on` allows them again
    issued_by: person or system that turns it
    reason: for the log
    """

    control: Switch
    issued_by: str
    reason: str = ""


MESSAGES: tuple[type[Message], ...] = (
    Reading,
    Alarm,
    State,
    Raw,
    Ack,
    Command,
    NodeStatus,
    ReplayRequest,
    CancelRequest,
    ControlSwitch,
    CollectionQuality,
)
"""Every message that stands on a topic."""
