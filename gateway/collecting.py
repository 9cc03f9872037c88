"""Collection put together from the settings: plans for the collector, and its quality as a message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from gateway.collection import CollectionLimits, Collector
from gateway.gapfill import FillLimits
from gateway.journal import Journal
from gateway.outlet import Outlet
from gateway.polling import PollPlan
from gateway.quality import Ratio
from gateway.sessions import Sessions
from gateway.settings import Settings, time_zone
from gateway.slots import FillPlan
from messages import CollectionQuality, CollectionRatio
from protocols.commands import Quirks
from protocols.registry import Dialogue


def make_collector(
    settings: Settings,
    journal: Journal,
    outlet: Outlet,
    sessions: Sessions,
    dialogue: Dialogue,
    quirks: Callable[[str], Quirks],
    publish: Callable[[CollectionQuality], None],
) -> Collector:
    """The collector of a node. `dialogue`: for terminals that were never here; `publish`: the hourly quality."""

    def dialogue_of(terminal: str) -> Dialogue:
        session = sessions.get(terminal)
        return session.context.dialogue if session is not None else dialogue

    def channel_of(terminal: str) -> str | None:
        session = sessions.get(terminal)
        return session.context.name if session is not None and session.link is not None else None

    def tell(ratios: Sequence[Ratio], wall: int) -> None:
        publish(CollectionQuality(node=settings.node.id, at=wall, ratios=[_ratio(ratio) for ratio in ratios]))

    fetching = settings.fetching
    fills = FillLimits(
        under_way=fetching.under_way,
        quiet_s=fetching.quiet_s,
        quiet_midnight_s=fetching.quiet_midnight_s,
        arrival_s=fetching.arrival_s,
    )
    return Collector(
        [PollPlan(**_plan(poll)) for poll in settings.polls],
        [FillPlan(zone=time_zone(owed.time_zone), **_plan(owed)) for owed in settings.collection],
        CollectionLimits(fills=fills),
        journal,
        outlet.store,
        dialogue_of,
        quirks,
        channel_of,
        tell,
    )


def _plan(table: Any) -> dict[str, Any]:
    """A table of the settings as arguments of its plan."""
    fields = {name: getattr(table, name) for name in table.__struct_fields__ if name != "time_zone"}
    fields["meters"] = _meters(table.meters)
    return fields


def _meters(meters: tuple[str, ...]) -> Literal["own", "known"] | tuple[str, ...]:
    if meters == ("own",):
        return "own"
    return "known" if meters == ("known",) else meters


def _ratio(ratio: Ratio) -> CollectionRatio:
    return CollectionRatio(
        plan=ratio.plan,
        kind=ratio.kind,
        period=ratio.period,
        start=ratio.start,
        end=ratio.end,
        owed=ratio.owed,
        first=ratio.first,
        cycle=ratio.cycle,
        first_ratio=_share(ratio.first, ratio.owed),
        cycle_ratio=_share(ratio.cycle, ratio.owed),
    )


def _share(came: int, owed: int) -> float | None:
    """A success ratio; None when nothing was owed."""
    return round(came / owed, 6) if owed else None
