"""One channel's side of DL/T 698.45: what its terminals share, and what commands become there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from typing import Final

from messages import Command, message_id
from wire698 import model
from wire698.access import ActionRequestNormal
from wire698.fast import FastDecoder
from wire698.frame import BROADCAST, Address, build_frame
from wire698.pieces import Apdu
from wire698.values import Data, Omd, Piid, Tag

from . import commands
from .commands import Outcome, Plan, Quirks
from .dlt698 import Dlt698Machine
from .dlt698_options import Options
from .events import Moment
from .mapping import Mapper, Said
from .reports import identify
from .times import Instants

_BROADCAST: Final = Address(BROADCAST << 6, b"\xaa")
_BROADCAST_TIME: Final = Omd(0x40007F00)
"""Clock 4000, method 127: broadcast time 广播校时."""
_REQUEST: Final = 0x43


class Dlt698Dialogue:
    """Holds the learnt layouts, plans and converted times of one channel."""

    def __init__(self, options: Options, zone: tzinfo, layouts: int) -> None:
        self._options = options
        self._instants = Instants(zone)
        self._decoder = FastDecoder(layouts)
        self._mapper = Mapper(self._instants)

    def machine(self, terminal: str) -> Dlt698Machine:
        return Dlt698Machine(terminal, self._options, self._decoder, self._mapper, self._instants)

    def plan(self, command: Command, command_class: str, quirks: Quirks, now_ms: int) -> Plan:
        return commands.plan(command, command_class, quirks=quirks, now_ms=now_ms, instants=self._instants)

    def outcome(self, plan: Plan, answers: Sequence[Apdu], terminal: str, command_id: str, moment: Moment) -> Outcome:
        said = Said(terminal, 0, moment.wall, "read", command_id)
        outcome = commands.outcome(plan, answers, said, self._mapper)
        identify(list(outcome.readings), message_id(terminal, b"command", command_id.encode()), terminal, moment.wall)
        return outcome

    def octets(self, plan: Plan) -> list[str]:
        return commands.octets(plan)

    def guarantee_request(self) -> Apdu:
        return commands.guarantee_request()

    def guarantee_in_force(self, answer: Apdu) -> bool | None:
        return commands.guarantee_in_force(answer)

    def clock_request(self) -> Apdu:
        return commands.clock_request()

    def clock_offset(self, answer: Apdu, now_ms: int) -> int | None:
        return commands.clock_offset(answer, now_ms, self._instants)

    def broadcast(self, command: Command, now_ms: int) -> bytes | None:
        if command.verb != "set_clock" or command.args:
            return None
        time = Data(Tag.DATE_TIME_S, self._instants.date_time_s(now_ms))
        apdu = ActionRequestNormal(Piid(0), _BROADCAST_TIME, time)
        return build_frame(_REQUEST, _BROADCAST, self._options.client_address, model.build(apdu))
