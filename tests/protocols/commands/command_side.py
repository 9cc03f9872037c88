"""Making commands and answers in few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from messages import Command, class_of_verb
from protocols.commands import Invalid, Plan, Verification, plan
from protocols.mapping import Mapper, Said
from protocols.times import Instants
from wire698 import model
from wire698.pieces import Apdu

INSTANTS = Instants(ZoneInfo("Asia/Shanghai"))
NOW = 1_763_951_400_000
"""2025-11-24 10:30:00 in Shanghai."""
MAPPER = Mapper(INSTANTS)
SAID = Said("112233445566", 0, NOW, command_id="c-1")
ENTRIES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "commands.json").read_text(encoding="utf-8")
)


def command(verb: str, args: dict[str, Any]) -> Command:
    return Command(id="c-1", verb=verb, args=args, issued_by="test", expires_at=NOW + 60_000)


def planned(verb: str, args: dict[str, Any], **settings: Any) -> Plan:
    return plan(command(verb, args), class_of_verb(verb) or "", now_ms=NOW, instants=INSTANTS, **settings)


def refused(verb: str, args: dict[str, Any], **settings: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        planned(verb, args, **settings)
    return caught.value


def apdu(octets: str) -> Apdu:
    return model.parse(bytes.fromhex(octets)).apdu


def hex_of(one: Any) -> str:
    return model.build(one).hex(" ").upper()


def verification(verb: str, args: dict[str, Any], **settings: Any) -> Verification:
    found = planned(verb, args, **settings).verification
    assert found is not None
    return found


def told(*results: tuple[str, str]) -> Apdu:
    """The answer to a GET list: (OAD, `01` and Data or `00` and DAR), hexadecimal."""
    body = "".join(oad + result for oad, result in results)
    return apdu(f"85 02 01 {len(results):02X} {body} 00 00")
