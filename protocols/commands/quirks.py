"""Where terminals differ, and what the settings allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Quirks:
    """Where terminals differ; the defaults are the reading that most sources share (control.md, gaps.md 3).

    round_bits_lsb_first: round bitmaps 轮次 begin with the least significant bit (control.md 0, field-oddities 26).
    control_bits_lsb_first: so do the period and scheme bitmaps of 8103 and the control types of 2301 attribute 16/17
      (gaps.md 1.14).
    alarm_hours_lsb_first: so do the hours of 8002 催费告警 (control.md 3).
    relay_by_index: the element index of F205 02 nn says which relay is meant; False: the place in the array does
      (control.md 1, one firmware), and then only relays 1, 2, … without a gap can be named.
    relays: relays that the terminal has (control.md 1: 1..4).
    structured_parameters: the parameters of 8103 method 127, 8106 methods 3, 5, 127 and 8003/8004 method 127 are one
      structure; False: its members one after another, as one firmware's tables have them (gaps.md 3.5).
    trip_limit_unit_min: minutes in one unit of the limit time 限电时间 (gaps.md 3.2: 1; 30 in the older meaning).
    rest_day_bits: for each bit of the rest days of 8104, first bit on the wire first, the day (1 Monday … 7 Sunday, 0
      none) (control.md 6.2, gaps.md 1.14: position unsure).
    purchase_type_member: the unit of 8107 has the purchase type; False: the older unit of seven (control.md 6.5).
    purchase_append_code, purchase_refresh_code: enums 追加/刷新 of 8107; 0x55, 0xAA in another firmware (control.md
      6.5).
    period_switch_always: 8103 needs method 127 before any period counts (control.md 6.1, gaps.md 3.5).
    relay_open_state: current state of F205 that means tripped, 0 or 1; None: not known, then F205 tells nothing
      (gaps.md 2.8). Never the only source, whatever it says.
    """

    round_bits_lsb_first: bool = False
    control_bits_lsb_first: bool = False
    alarm_hours_lsb_first: bool = False
    relay_by_index: bool = True
    relays: int = 4
    structured_parameters: bool = True
    trip_limit_unit_min: int = 1
    rest_day_bits: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    purchase_type_member: bool = True
    purchase_append_code: int = 0
    purchase_refresh_code: int = 1
    period_switch_always: bool = False
    relay_open_state: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that the settings may change. Times in s.

    points: of one read. records: the latest n of one read_record. meters: in one selector. events: of one
    configure_reporting. result_rows: of a read_record in the result (the Reading has them all). transparent: octets
    that `transparent` may carry: `reads` only what is known to read, `no_controls` all but what is known to do more,
    `any`. proxy_timeout_s: for its meters, unless the command says; reply_margin_s: added to it for the answer.
    settle_s: from the answer to the first look at the effect; window_s, every_s: how long and how often to look.
    """

    points: int = 64
    records: int = 31
    meters: int = 64
    events: int = 64
    result_rows: int = 100
    frame_octets: int = 1024
    transparent: Literal["reads", "no_controls", "any"] = "no_controls"
    proxy_timeout_s: int = 30
    reply_margin_s: float = 10.0
    settle_s: float = 2.0
    window_s: float = 120.0
    every_s: float = 10.0
