"""`loadgate encode`: the JSON of `loadgate decode --json` back to octets."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from wire698.forms import FormError
from wire698.jsonform import encode_apdu, encode_frame

from .decode import BROKEN, OK, USAGE, Line, UsageError, input_lines

HELP = "encode the JSON of decode --json to octets"
EPILOG = """examples:
  loadgate decode --json 681700430512907856341210223E05010140010200 00C60716 | loadgate encode -
  loadgate encode --apdu '{"apdu": {"service": "GetRequestNormal", "piid": {"n": 1, "prio": 0, "acd": 0},
                                    "oad": "40010200", "timetag": null}}'
  loadgate encode --file frames.jsonl

A line of a file holds one object; # starts a comment line. `raw`, where decode gave it, is sent as it is.
Exit status: 0 all good, 1 something cannot be encoded, 2 nothing to read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `loadgate encode`."""
    parser.description = "Encode JSON to DL/T 698.45 frames or APDUs, printed as hexadecimal octets."
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("json", nargs="*", metavar="JSON", help="one object; - reads objects from stdin, one a line")
    parser.add_argument("--file", metavar="F", help="read objects from a file, one a line")
    parser.add_argument("--apdu", action="store_true", help="print the APDU without its frame")


def run(args: argparse.Namespace) -> int:
    """Encode what the arguments name; the exit status."""
    try:
        lines = list(input_lines(args.json, args.file, "JSON"))
    except (OSError, UsageError) as error:
        print(f"loadgate encode: {error}", file=sys.stderr)
        return USAGE
    status = OK
    for line in lines:
        try:
            form = _form(line)
            octets = encode_apdu(form) if args.apdu else encode_frame(form)
        except FormError as error:
            place = "" if line.number is None else f"line {line.number}: "
            print(f"loadgate encode: {place}{error}", file=sys.stderr)
            status = BROKEN
        else:
            print(octets.hex().upper())
    return status


def _form(line: Line) -> Any:
    try:
        form = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        raise FormError(f"no JSON: {error}") from None
    if isinstance(form, dict) and form.get("ok") is False:
        raise FormError(f"is what could not be decoded: {form.get('reason', form.get('garbage'))}")
    return form
