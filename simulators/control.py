"""What a terminal does about its relays 继电器: remote control, power guarantee, limits, and the events of it.

Theory of operation. Methods of objects change the state at once and are answered; what they do to the load follows
by timers of simulated time, the earliest after REACTION_S, so a reply always comes before its effect. Nothing runs
while nothing is in force, but for a look at the calendar at midnight. A timer that fell due without power waits for it.
A relay is open when any of these has it open: a remote trip, a limit, somebody at the premises; and none while a power
guarantee 保电 is in force. Every change of that sum goes through `_settle`.

    remote trip: command -> (alarm delay) -> open -> (limit time, or method 130) -> closed
                 method 130 permit: the command ends at once, the customer closes the relay a little later
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from wire698.values import Data, Oad, Tag

from .display import KINDS, Display, Note, words
from .groups import GROUPS, Groups
from .happenings import Happening, Occurrence, Shown, Switched
from .limits import ENERGY_CONTROLS, PURCHASE, Limits, Order, Verdict
from .records import EventLog
from .settings import TerminalSettings
from .shapes import array, bits, i64, oi
from .stamps import TerminalClock, local, next_day
from .world import Premises

Action = Callable[[float], list[Happening]]

REACTION_S = 1.0
"""From a command to its effect: the terminal's own cycle."""
RECORD_S = 120.0
"""From a trip to its record, which tells the power after that time."""
RELAY_OI = 0xF205
RELEASED, GUARANTEED, AUTOMATIC = range(3)
_SILENCE, _POWERED_UP, _HOURS = 1, 2, 4
"""Why a guarantee is automatic."""


@dataclass(slots=True)
class Trip:
    """A remote trip of one relay that is in force; `opened`: its alarm delay is over."""

    relay: int
    limit_min: int
    auto_close: bool
    opened: bool = False


@dataclass(slots=True)
class Automatic:
    """Attributes 3 to 5 of 8001: minutes of silence, minutes after power-up, (start hour, end hour) inclusive."""

    silence_min: int = 0
    power_up_min: int = 0
    hours: tuple[tuple[int, int], ...] = ()


class Control:
    """One terminal's control. `do_at` has an action called when the world reaches an instant."""

    def __init__(
        self,
        settings: TerminalSettings,
        premises: Premises,
        clock: TerminalClock,
        log: EventLog,
        groups: Groups,
        begin: float,
        do_at: Callable[[float, Action], None],
    ) -> None:
        self.settings = settings
        self.premises = premises
        self.groups = groups
        self.limits = Limits(groups, bits_lsb_first=settings.control_bits_lsb_first, restore=settings.restore)
        self.display = Display()
        self.automatic = Automatic()
        self.command = 0
        self._clock = clock
        self._log = log
        self._do_at = do_at
        self._powered = True
        self._waiting: list[Action] = []
        self._trips: dict[int, Trip] = {}
        self._remote = 0
        self._local = 0
        self._hands: dict[int, int] = {}
        self._sounding = 0
        self._silenced = 0
        self._guaranteed = False
        self._reasons = 0
        self._waived = 0
        self._heard = begin
        self._powered_up: float | None = None
        self._tickets = count(1)
        self._midnight = self._round = self._watch = 0
        self._plan_midnight(begin)

    # --- what is ---

    @property
    def all_relays(self) -> int:
        """The set of all relays."""
        return (1 << self.premises.relays) - 1

    @property
    def output(self) -> int:
        """The relays that are open."""
        return sum(1 << relay - 1 for relay in self.premises.open_relays)

    @property
    def alarm(self) -> int:
        """The relays in alarm delay, or all while method 127 has the alarm sound."""
        delayed = sum(1 << trip.relay - 1 for trip in self._trips.values() if not trip.opened)
        return self._sounding | delayed & ~self._silenced

    @property
    def guarantee(self) -> int:
        """0 released 解除, 1 guaranteed 保电, 2 automatic 自动保电."""
        if self._guaranteed:
            return GUARANTEED
        return AUTOMATIC if self._reasons & ~self._waived else RELEASED

    # --- remote control 8000 ---

    def sound(self, *, on: bool) -> None:
        """Trigger alarm 触发告警, release alarm 解除告警."""
        self._sounding = self.all_relays if on else 0
        self._silenced = 0 if on else self.all_relays

    def trip(self, at: float, relay: int, delay_min: int, limit_min: int, *, auto_close: bool) -> None:
        """A trip 跳闸 is ordered. Under a power guarantee only the command is kept."""
        self.command |= 1 << relay - 1
        self._hands.pop(relay, None)
        self._silenced &= ~(1 << relay - 1)
        if self.guarantee != RELEASED:
            return
        trip = self._trips[relay] = Trip(relay, limit_min, auto_close)
        self._later(at + max(REACTION_S, delay_min * 60), lambda when: self._open(when, trip))

    def _open(self, at: float, trip: Trip) -> list[Happening]:
        if self._trips.get(trip.relay) is not trip:
            return []
        trip.opened = True
        self._remote |= 1 << trip.relay - 1
        if trip.limit_min:
            self._later(at + trip.limit_min * 60, lambda when: self._time_is_over(when, trip))
        self._record_trip(at, trip.relay)
        return self._settle(at)

    def _time_is_over(self, at: float, trip: Trip) -> list[Happening]:
        if self._trips.get(trip.relay) is not trip:
            return []
        self.command &= ~(1 << trip.relay - 1)
        return self._lift(at, trip.relay, "limit_time")

    def close(self, at: float, relay: int, *, direct: bool) -> None:
        """Closing 合闸 is ordered: directly, or permitted, and the customer does it."""
        self.command &= ~(1 << relay - 1)
        if not self._remote >> relay - 1 & 1:
            # The relay has not opened yet.
            self._trips.pop(relay, None)
        wait = REACTION_S if direct else self.settings.customer_closes_s
        self._hands[relay] = ticket = next(self._tickets)
        if wait is not None:
            cause = "close" if direct else "customer"
            self._later(at + wait, lambda when: self._hand_closes(when, relay, ticket, cause))

    def _hand_closes(self, at: float, relay: int, ticket: int, cause: str) -> list[Happening]:
        if self._hands.get(relay) != ticket:
            return []
        del self._hands[relay]
        self.limits.excuse(1 << relay - 1)
        return self._lift(at, relay, cause)

    def _lift(self, at: float, relay: int, cause: str) -> list[Happening]:
        """The remote trip of a relay is over."""
        self._trips.pop(relay, None)
        self._remote &= ~(1 << relay - 1)
        return self._settle(at, cause)

    def locally(self, at: float, relay: int, *, is_open: bool) -> list[Happening]:
        """Somebody at the premises opens a relay, or lets it go."""
        self._local = self._local | 1 << relay - 1 if is_open else self._local & ~(1 << relay - 1)
        return self._settle(at, "local")

    # --- power guarantee 8001 ---

    def set_guarantee(self, at: float, *, on: bool) -> None:
        """Input 投入保电, release 解除保电."""
        was = self.guarantee
        self._guaranteed = on
        self._guarantee_changed(at, was)

    def release_automatic(self, at: float) -> None:
        """Release automatic 解除自动保电: the present reasons count again when they have gone and come back."""
        was = self.guarantee
        self._waived = self._reasons
        self._guarantee_changed(at, was)

    def heard(self, at: float) -> bool:
        """The master spoke. True where that changes when something falls due."""
        self._heard = at
        if not self._reasons & _SILENCE:
            return False
        self.watch(at)
        return True

    def watch(self, at: float) -> None:
        """Look for reasons of an automatic guarantee now, and as long as there can be any."""
        self._watch = ticket = next(self._tickets)
        self._later(at, lambda when: self._look(when, ticket))

    def _look(self, at: float, ticket: int) -> list[Happening]:
        if ticket != self._watch:
            return []
        was, plan, dues = self.guarantee, self.automatic, []
        self._reasons = 0
        if plan.silence_min:
            silent_from = self._heard + plan.silence_min * 60
            self._reasons |= _SILENCE if at >= silent_from else 0
            dues += [silent_from] if at < silent_from else []
        if plan.power_up_min and self._powered_up is not None:
            over = self._powered_up + plan.power_up_min * 60
            self._reasons |= _POWERED_UP if at < over else 0
            dues += [over] if at < over else []
        if plan.hours:
            # The rounding between the two times must not show the hour before.
            shown = self._clock.read(at) + 1e-3
            hour = local(shown).hour
            self._reasons |= _HOURS if any(start <= hour <= end for start, end in plan.hours) else 0
            dues.append(self._clock.when((shown // 3600 + 1) * 3600))
        self._waived &= self._reasons
        if dues:
            self._later(max(min(dues), at + REACTION_S), lambda when: self._look(when, ticket))
        self._guarantee_changed(at, was)
        return []

    def _guarantee_changed(self, at: float, was: int) -> None:
        now = self.guarantee
        if (was == RELEASED) == (now == RELEASED):
            return
        if now != RELEASED:
            # The commands stay; what they had done does not come back.
            self._trips.clear()
            self._hands.clear()
            self._remote = 0
        else:
            self.limits.guarantee_ends()
        text = "解除保电" if now == RELEASED else "保电投入" if now == GUARANTEED else "自动保电投入"

        def follow(when: float) -> list[Happening]:
            return [Shown(when, "guarantee", None, text), *self._settle(when, "guarantee")]

        self._later(at + REACTION_S, follow)
        self.touch(at)

    # --- class 13 and its parameters ---

    def touch(self, at: float) -> None:
        """A control, its parameters or the clock changed: judge in the next cycle, and from then on."""
        self._round = ticket = next(self._tickets)
        self._later(at + REACTION_S, lambda when: self._judge(when, ticket))

    def _judge(self, at: float, ticket: int) -> list[Happening]:
        if ticket != self._round:
            return []
        verdicts = self.limits.judge(at, self._clock.read(at), guaranteed=self.guarantee != RELEASED)
        happened: list[Happening] = []
        for verdict in verdicts:
            if verdict.oi in ENERGY_CONTROLS:
                happened += self._energy_event(at, verdict)
            else:
                self._record_power_trip(at, verdict)
        happened += self._settle(at, "restored")
        interval = self.limits.interval()
        if interval is not None:
            self._later(at + interval, lambda when: self._judge(when, ticket))
        return happened

    def purchase(self, at: float, group: int, unit: Data, before: Data) -> None:
        """An order 购电单 was accepted; `before`: the unit that it replaces, or NULL."""
        order = Order.of(unit)
        price = self.settings.purchase_price if order.fee else None
        self.groups.buy(group, at, order.amount, append=order.append, price=price)
        related = ((Oad(0x810C2201), before),)

        def record(_: float) -> list[Happening]:
            return [self._event(at, "purchase_parameters_set", oi(group), related)]

        self._later(at + REACTION_S, record)
        self.touch(at)

    # --- the display ---

    def show(self, at: float, kind: int, number: int | None, text: bytes) -> None:
        """Words for the display 8002..8004."""
        self._later(at + REACTION_S, lambda when: [Shown(when, KINDS[kind], number, words(text))])

    def note(self, at: float, kind: int, note: Note) -> None:
        """A message for the customer, who reads it after a while."""
        self.display.add(kind, note)
        self.show(at, kind, note.number, note.text)

        def read(_: float) -> list[Happening]:
            note.read = True
            return []

        self._later(at + self.settings.message_read_s, read)

    # --- the world ---

    def power(self, at: float, *, on: bool) -> list[Happening]:
        """The mains failed or came back; what waited for them happens now."""
        self._powered = on
        if not on:
            return []
        self._powered_up = at
        if self.automatic.power_up_min:
            self.watch(at)
        waiting, self._waiting = self._waiting, []
        return [happening for action in waiting for happening in action(at)]

    def clock_was_set(self, at: float) -> None:
        """The clock shows something else than it would have."""
        self._plan_midnight(at)
        if self.automatic.hours:
            self.watch(at)
        if self.limits.interval() is not None:
            self.touch(at)

    def _plan_midnight(self, at: float) -> None:
        self._midnight = ticket = next(self._tickets)
        # The rounding between the two times must not show the day before.
        shown = self._clock.read(at) + 1e-3
        self.groups.date_is(at, shown)
        due = self._clock.when(next_day(shown))
        # Not by way of _later: meters count without power too.
        self._do_at(due, lambda when: self._midnight_strikes(when, ticket))

    def _midnight_strikes(self, at: float, ticket: int) -> list[Happening]:
        if ticket != self._midnight:
            return []
        self._plan_midnight(at)
        if not self.settings.trip_ends_at_midnight:
            return []
        for relay in self._trips:
            self.command &= ~(1 << relay - 1)
        self._trips.clear()
        self._remote = 0
        return self._settle(at, "midnight")

    def _later(self, when: float, action: Action) -> None:
        def run(at: float) -> list[Happening]:
            if self._powered:
                return action(at)
            self._waiting.append(action)
            return []

        self._do_at(when, run)

    def _settle(self, at: float, cause: str = "restored") -> list[Happening]:
        """Move the relays to where everything together wants them."""
        wanted = 0 if self.guarantee != RELEASED else self._remote | self._local | self.limits.output()
        wanted &= self.all_relays
        moved = self.output ^ wanted
        if not moved:
            return []
        before = self.premises.kilowatts(at)
        numbers = [relay for relay in range(1, self.premises.relays + 1) if moved >> relay - 1 & 1]
        for relay in numbers:
            self.premises.switch(at, relay, is_open=bool(wanted >> relay - 1 & 1))
        after = self.premises.kilowatts(at)
        happened: list[Happening] = []
        for relay in numbers:
            is_open = bool(wanted >> relay - 1 & 1)
            why = self._opened_by(relay) if is_open else cause
            happened.append(Switched(at, relay, is_open, why, before, after))
        return happened

    def _opened_by(self, relay: int) -> str:
        if self._remote >> relay - 1 & 1:
            return "remote"
        return self.limits.cause_of(relay) or "local"

    # --- events ---

    def _event(self, began: float, slug: str, source: Data, extras: tuple[tuple[Oad, Data], ...]) -> Occurrence:
        event = self._log.record(slug, int(self._clock.read(began)), source=source, extras=extras)
        return Occurrence(event, "raised")

    def _record_trip(self, at: float, relay: int) -> None:
        """3115: the power of every group two minutes after."""
        source = Data(Tag.OAD, Oad(RELAY_OI << 16 | 0x0200 | relay))

        def record(when: float) -> list[Happening]:
            return [self._event(at, "remote_trip", source, remote_trip_columns(self.groups.powers(when)))]

        self._later(at + RECORD_S, record)

    def _record_power_trip(self, at: float, verdict: Verdict) -> None:
        """3200: the group's power before, and two minutes after."""
        control, group, rounds, limit, before = verdict

        def record(when: float) -> list[Happening]:
            after = self.groups.power(group, when)[0]
            columns = (
                (Oad(0x33050600), i64(after)),
                (Oad(0x33050700), oi(control)),
                (Oad(0x33050800), bits(rounds, lsb_first=self.settings.round_bits_lsb_first)),
                (Oad(0x33050900), i64(limit)),
                (Oad(0x33050A00), i64(before)),
                (Oad(group << 16 | 0x2300), i64(before)),
            )
            return [self._event(at, "power_control_trip", oi(group), columns)]

        self._later(at + RECORD_S, record)

    def _energy_event(self, at: float, verdict: Verdict) -> list[Happening]:
        """3201 for a trip, 3203 for an alarm."""
        control, group, rounds, limit, _ = verdict
        if not rounds:
            columns = ((Oad(0x33070600), oi(control)), (Oad(0x33070700), i64(limit)))
            return [self._event(at, "energy_control_alarm", oi(group), columns)]
        month = self.groups.month(group, at)[0]
        energy = self.groups.remaining(group, at) if control == PURCHASE else month[0]
        return [
            self._event(
                at,
                "energy_control_trip",
                oi(group),
                (
                    (Oad(0x33060600), oi(control)),
                    (Oad(0x33060700), bits(rounds, lsb_first=self.settings.round_bits_lsb_first)),
                    (Oad(0x33060800), i64(limit)),
                    (Oad(0x33060900), i64(energy)),
                    (Oad(group << 16 | 0x4900), array(map(i64, month))),
                ),
            )
        ]


def remote_trip_columns(powers: list[int]) -> tuple[tuple[Oad, Data], ...]:
    """What 3115 adds: the power of groups 1..8 in 10^-4 kW."""
    assert len(powers) == len(GROUPS)
    return ((Oad(0x330A0600), array(map(i64, powers))),)
