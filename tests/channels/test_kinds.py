"""Kinds of channels are told apart in `gateway/channels/` and in the settings, nowhere else in the gateway."""

from __future__ import annotations

import re
from pathlib import Path

import gateway
from gateway.settings_channels import CHANNEL_SECTIONS

HOUSE = Path(gateway.__file__).parent
KIND = re.compile(r"tcp|udp|serial(?!iz)|radio|rfc_?2217", re.IGNORECASE)


def named(source: str) -> list[str]:
    return [line for line in source.splitlines() if KIND.search(line)]


def test_no_kind_is_named_above_the_channels() -> None:
    files = [path for path in HOUSE.glob("**/*.py") if "channels" not in path.relative_to(HOUSE).parts]
    above = {path.name: path.read_text(encoding="utf-8") for path in files if not path.name.startswith("settings")}
    assert {"link.py", "daemon.py", "medium.py", "commands.py"} <= above.keys()
    assert {name: lines for name, source in above.items() if (lines := named(source))} == {}


def test_the_search_finds_what_it_seeks() -> None:
    assert all(named(section) for section in CHANNEL_SECTIONS if section != "channels"), CHANNEL_SECTIONS
    assert named("from gateway.channels.udp import Udp")
    assert not named("serializer=_json")
