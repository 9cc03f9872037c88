"""What makes one simulated terminal differ from another."""

from __future__ import annotations

from typing import Literal

import msgspec

from .world import RELAY_SHARES

EventSlug = Literal[
    "voltage_loss",
    "phase_break",
    "reverse_phase_sequence",
    "meter_cover_open",
    "power_off",
    "remote_trip",
]


PhaseName = Literal["a", "b", "c"]
RequestKind = Literal["get", "set", "action", "proxy"]


class EventPlan(msgspec.Struct, frozen=True, kw_only=True):
    """An event: what, when (simulated seconds after the start), on which meter and phase.

    It lasts `duration_s`; 0: for good.
    """

    kind: EventSlug
    at_s: float = 0.0
    meter: int = 1
    phase: PhaseName = "a"
    duration_s: float = 600.0


class TerminalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One terminal. Times ending in `_s` are simulated seconds for the body, real seconds for the link.

    Body: `kind` office, factory, home; `meters` printed addresses; `minute_s` period of the curve task and `phase_s`
    where in it; `upload_delay_s` between freeze and upload; `missed` share of readings that a
    meter does not answer (NULL in the records); depths of its tables in rows; `history_s` of load before the start.
    Link: `frame_size`, `apdu_size` in octets; `big_answers` go as GET-Next blocks or as link fragments; `first_block`
    0 or 1; `event_form` 88 02, or 88 01 with an array or a structure; `protected` reports travel in SECURITY-Request;
    `connect_first` refuses services and reports nothing before CONNECT; `answer_delay_s`, `proxy_delay_s` before an
    answer leaves, and for a kind of request `answers_late_s` more; `silent` logs in, sends heartbeats and reports, but
    answers no request and does nothing that it is asked.
    Control: `relay_shares` part of the load behind each relay, together 1; `round_bits_lsb_first`: bitmaps of rounds,
    and `control_bits_lsb_first`: those of periods, days and control types, begin with the least significant bit;
    `relays_by_place`: relays of 8000 count by their place in the array; `relay_open_state`: the state of F205 that
    means open; `customer_closes_s` after a permit (None: never); `message_read_s` until the customer reads a message;
    `restore` of limits; `trip_ends_at_midnight` drops remote trips; `purchase_price` yuan a kWh, where a fee is bought.
    """

    address: str
    seed: int
    meters: tuple[str, ...]
    kind: Literal["office", "factory", "home"] = "office"
    minute_s: float = 900.0
    phase_s: float = 0.0
    upload_delay_s: float = 5.0
    missed: float = 0.0
    rows_per_report: int = 10
    curve_depth: int = 192
    collected_depth: int = 400
    event_depth: int = 15
    history_s: float = 0.0
    clock_offset_s: float = 0.0
    clock_drift_ppm: float = 0.0
    events_per_day: float = 0.0
    events: tuple[EventPlan, ...] = ()

    heartbeat_s: int = 60
    login_timeout_s: float = 30.0
    retry_s: float = 5.0
    resends: int = 3
    rest_s: float = 60.0
    queue_limit: int = 1000
    report_limit: int | None = None
    frame_size: int = 1024
    apdu_size: int = 4096
    fragment_patience_s: float = 1.0
    big_answers: Literal["blocks", "fragments"] = "blocks"
    first_block: int = 0
    event_form: Literal["record", "array", "structure"] = "record"
    protected: bool = False
    scrambled: bool = False
    connect_first: bool = False
    answer_delay_s: float = 0.0
    proxy_delay_s: float = 0.0
    logs_out: bool = True

    silent: bool = False
    answers_late_s: dict[RequestKind, float] = msgspec.field(default_factory=dict)
    relay_shares: tuple[float, ...] = RELAY_SHARES
    round_bits_lsb_first: bool = False
    control_bits_lsb_first: bool = False
    relays_by_place: bool = False
    relay_open_state: Literal[0, 1] = 1
    customer_closes_s: float | None = 30.0
    message_read_s: float = 60.0
    restore: Literal["next_period", "staged"] = "next_period"
    trip_ends_at_midnight: bool = False
    purchase_price: float = 0.6
