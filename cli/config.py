"""`loadgate config`: print the commented settings file, or check one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import msgspec

from gateway.logs import mask_text
from gateway.settings import Settings, SettingsError, commented_toml, load

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `loadgate config`."""
    parser.add_argument("--check", metavar="FILE", type=Path, help="say what is wrong with FILE; exit status 1 if any")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object instead: the settings, or {ok, problems, settings}"
    )


def run(args: argparse.Namespace) -> int:
    """Print the defaults as TOML, or the result of the check; passwords in URLs are masked."""
    if args.check is None:
        print(json.dumps(_plain(Settings()), ensure_ascii=False) if args.json else commented_toml(Settings()), end="")
        if args.json:
            print()
        return 0
    try:
        settings = load(args.check)
    except SettingsError as exc:
        if args.json:
            problems = msgspec.to_builtins(exc.problems)
            print(json.dumps({"ok": False, "problems": problems}, ensure_ascii=False))
        else:
            print(exc, file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"ok": True, "problems": [], "settings": _plain(settings)}, ensure_ascii=False))
    else:
        print(f"{args.check}: ok")
    return 0


def _plain(settings: Settings) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(settings)
    mqtt = plain["mqtt"]
    assert isinstance(mqtt, dict)
    mqtt["url"] = mask_text(mqtt["url"])
    return plain
