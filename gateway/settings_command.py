"""Settings of commands: bounds, interlocks, clock keeping, groups, and how terminals differ."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from gateway.settings_checks import ADDRESSES, BOOL, NAME, NAME_PATTERN


class Commands(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands (命令) from MQTT to terminals."""

    max_per_terminal: Annotated[
        int, Meta(description="Commands of one terminal that are not at their end; more are `busy`.", ge=1, le=10_000)
    ] = 64
    max_open: Annotated[
        int, Meta(description="Commands of all terminals that are not at their end.", ge=1, le=10_000_000)
    ] = 100_000
    query_attempts: Annotated[
        int, Meta(description="Connections on which a query may be tried before it is `timed_out`.", ge=1, le=100)
    ] = 3
    keep_s: Annotated[
        float, Meta(description="Ended commands and their statuses are kept so long.", ge=3_600, le=3660 * 86_400)
    ] = 7_776_000.0


class Interlocks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What keeps a control (控制) from doing harm. A command that meets one is `rejected` with its name."""

    guarantee: Annotated[
        bool, Meta(description="No trip while power guarantee (保电) is in force; it is read before each.", extra=BOOL)
    ] = True
    approvals: Annotated[int, Meta(description="Distinct names that must approve a trip.", ge=0, le=32)] = 1
    trips_per_minute: Annotated[
        int, Meta(description="Terminals tripped within one minute, at most.", ge=0, le=1_000_000)
    ] = 60
    trips_in_force: Annotated[
        int, Meta(description="Terminals tripped and not closed again, at most.", ge=0, le=10_000_000)
    ] = 1_000


class ClockKeeping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Clocks (时钟) of terminals that run off are set right."""

    enabled: Annotated[bool, Meta(description="Whether to do it.", extra=BOOL)] = True
    from_s: Annotated[float, Meta(description="Smallest offset that is corrected.", ge=1, le=86_400)] = 60.0
    to_s: Annotated[
        float, Meta(description="Largest; beyond it an alarm is raised and nothing is set.", ge=1, le=86_400)
    ] = 900.0
    quiet_s: Annotated[
        float, Meta(description="No clock is set so close to a full hour, midnight included.", ge=0, le=1_500)
    ] = 300.0
    times_a_month: Annotated[
        int, Meta(description="Settings in a month after which the next also raises `clock_fault`.", ge=0, le=1_000)
    ] = 1


class Group(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named group (群组) of terminals for group commands. Repeat the table for more of them."""

    name: Annotated[str, Meta(description="Name, a level of topics.", pattern=NAME_PATTERN, extra=NAME)] = "group-1"
    terminals: Annotated[tuple[str, ...], Meta(description="Addresses of the members.", extra=ADDRESSES)] = ()


class Quirk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What terminals of one make do otherwise than the text. Repeat the table; the first that matches counts."""

    terminals: Annotated[
        tuple[str, ...], Meta(description="Which terminals: addresses or prefixes.", extra=ADDRESSES)
    ] = ()
    round_bits_lsb_first: Annotated[
        bool, Meta(description="Round bitmaps (轮次) count from the least significant bit.", extra=BOOL)
    ] = False
    control_bits_lsb_first: Annotated[
        bool, Meta(description="So do the bitmaps of periods, schemes and control types.", extra=BOOL)
    ] = False
    alarm_hours_lsb_first: Annotated[
        bool, Meta(description="So do the hours of the arrears alarm (催费告警).", extra=BOOL)
    ] = False
    relay_by_index: Annotated[
        bool, Meta(description="A relay is named by the element index of F205 02 nn, else by its place.", extra=BOOL)
    ] = True
    relays: Annotated[int, Meta(description="Relays that the terminal has.", ge=1, le=8)] = 4
    structured_parameters: Annotated[
        bool, Meta(description="Parameters of 8003, 8103/127, 8106/127 stand in a structure.", extra=BOOL)
    ] = True
    trip_limit_unit_min: Annotated[
        int, Meta(description="Minutes in one unit of the limit time (限电时间) of a trip.", ge=1, le=60)
    ] = 1
    rest_day_bits: Annotated[
        str,
        Meta(
            description="Day (1 Monday to 7 Sunday, 0 none) of each rest-day bit of 8104, the first on the wire first.",
            pattern=r"\A[0-7]{8}\Z",
            extra={"expected": "eight digits 0 to 7"},
        ),
    ] = "01234567"
    purchase_type_member: Annotated[
        bool,
        Meta(description="A unit of 8107 has the purchase type; false: seven members.", extra=BOOL),
    ] = True
    purchase_append_code: Annotated[int, Meta(description="Code of append (追加) in 8107.", ge=0, le=255)] = 0
    purchase_refresh_code: Annotated[int, Meta(description="Code of refresh (刷新) in 8107.", ge=0, le=255)] = 1
    period_switch_always: Annotated[
        bool, Meta(description="8103 needs method 127 before any period counts.", extra=BOOL)
    ] = False
    relay_open_state: Annotated[
        int, Meta(description="State of F205 that means tripped, 0 or 1; -1: not known.", ge=-1, le=1)
    ] = -1
