"""Settings of collection: polling 轮询, and data that terminals owe 补采."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from gateway.settings_checks import ADDRESSES, NAME, NAME_PATTERN, ZONE, check_meters
from protocols.commands.points import oad_of


def _check_point(value: str) -> None:
    oad_of(value, "points")


_METERS = {
    "expected": '["own"] (the terminal), ["known"] (meters that it has told of), or addresses',
    "check": check_meters,
}
_POINTS = {"expected": 'an array of names or OADs, such as "voltage" or "oad:20000200"', "check": _check_point}
_OBJECT = {"expected": "a name of at most 64 characters"}
_CHANNELS = {"expected": "an array of names of channels"}


class Poll(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A polling plan (轮询): what is read of which terminals, how often. Repeat the table for more of them."""

    name: Annotated[str, Meta(description="Name in metrics and messages.", pattern=NAME_PATTERN, extra=NAME)] = "poll-1"
    points: Annotated[tuple[str, ...], Meta(description="What is read.", max_length=64, extra=_POINTS)] = ("voltage",)
    terminals: Annotated[
        tuple[str, ...], Meta(description="Which terminals: addresses or prefixes.", extra=ADDRESSES)
    ] = ("*",)
    meters: Annotated[tuple[str, ...], Meta(description="Of which meters behind them.", extra=_METERS)] = ("own",)
    every_s: Annotated[float, Meta(description="Period.", ge=1, le=86_400)] = 900.0
    spread_s: Annotated[
        float, Meta(description="Part of the period over which terminals are spread.", ge=0, le=86_400)
    ] = 300.0
    channels: Annotated[tuple[str, ...], Meta(description="On which channels; none: all.", extra=_CHANNELS)] = ()
    rounds: Annotated[int, Meta(description="Tries within a period.", ge=1, le=10)] = 2
    pause_s: Annotated[float, Meta(description="Between tries.", ge=0, le=3_600)] = 30.0


class Collection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Data that terminals owe, fetched when they are missing (补采). Repeat the table for more of them."""

    name: Annotated[str, Meta(description="Name in metrics and messages.", pattern=NAME_PATTERN, extra=NAME)] = "curve"
    series: Annotated[Literal["minute", "hour", "day", "month"], Meta(description="Which freeze (冻结) it is.")] = (
        "minute"
    )
    period_min: Annotated[int, Meta(description="Minutes from point to point of a curve.", ge=1, le=1_440)] = 15
    columns: Annotated[tuple[str, ...], Meta(description="What must be there.", max_length=64, extra=_POINTS)] = (
        "active_energy_import",
    )
    terminals: Annotated[
        tuple[str, ...], Meta(description="Which terminals: addresses or prefixes.", extra=ADDRESSES)
    ] = ("*",)
    meters: Annotated[tuple[str, ...], Meta(description="Of which meters.", extra=_METERS)] = ("known",)
    deadline_s: Annotated[
        float, Meta(description="After its time, when it should be here by itself.", ge=1, le=30 * 86_400)
    ] = 900.0
    depth_days: Annotated[int, Meta(description="So far back it is asked for.", ge=1, le=366)] = 3
    source: Annotated[
        Literal["tasks", "freeze"],
        Meta(description="tasks: collected data (6012), many meters at once; freeze: the freeze object of each meter."),
    ] = "tasks"
    object: Annotated[
        str,
        Meta(
            description='Name of the freeze object; "": that of the series.',
            max_length=64,
            extra={"expected": "a name"},
        ),
    ] = ""
    select: Annotated[
        Literal["range", "at", "last"], Meta(description="How rows are selected: selectors 2, 6, 7; 1, 4, 5; or 9, 10.")
    ] = "range"
    by: Annotated[Literal["start", "store"], Meta(description="Which time of collected data selects them.")] = "start"
    store_delay_s: Annotated[int, Meta(description="Longest from the one time to the other.", ge=0, le=86_400)] = 300
    batch_slots: Annotated[int, Meta(description="Points in one request.", ge=1, le=512)] = 32
    batch_meters: Annotated[int, Meta(description="Meters in one request.", ge=1, le=64)] = 8
    empty: Annotated[
        Literal["accept", "once_more", "missing"],
        Meta(description="Points without values: taken as they are, asked for once more, or always missing."),
    ] = "once_more"
    pause_s: Annotated[
        float, Meta(description="First pause after an answer that brought nothing.", ge=1, le=86_400)
    ] = 300.0
    max_pause_s: Annotated[float, Meta(description="Longest pause.", ge=1, le=7 * 86_400)] = 21_600.0
    spread_s: Annotated[
        float, Meta(description="Over which terminals are spread after a deadline.", ge=0, le=86_400)
    ] = 120.0
    time_zone: Annotated[str, Meta(description="Zone of the days, without summer time.", extra=ZONE)] = "Asia/Shanghai"


class Fetching(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When missing data are fetched, for all `[[collection]]` tables."""

    quiet_s: Annotated[float, Meta(description="Not so close to a full hour.", ge=0, le=1_500)] = 180.0
    quiet_midnight_s: Annotated[float, Meta(description="Nor so close to midnight.", ge=0, le=21_600)] = 900.0
    arrival_s: Annotated[
        float, Meta(description="A terminal that comes back may report so long by itself.", ge=0, le=86_400)
    ] = 60.0
    under_way: Annotated[int, Meta(description="Requests at one time.", ge=1, le=10_000)] = 50
