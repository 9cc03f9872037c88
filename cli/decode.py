"""`loadgate decode`: what DL/T 698.45 octets say, as an annotated tree or as JSON."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wire698.errors import WireError
from wire698.frame import Frame, Framer, Garbage
from wire698.hexline import octets_of_text, whole_frames
from wire698.jsonform import decode_apdu, decode_frame
from wire698.tree import apdu_tree, broken_text, frame_tree

OK, BROKEN, USAGE = 0, 1, 2

HELP = "decode frames or APDUs to an annotated tree or JSON"
EPILOG = """examples:
  loadgate decode 68 17 00 43 05 12 90 78 56 34 12 10 22 3E 05 01 01 40 01 02 00 00 C6 07 16
  loadgate decode --apdu 0x85,0x01,0x01,0x40,0x01,0x02,0x00,0x00,0x04,0x00,0x00
  loadgate decode --file capture.txt --json | jq .apdu
  loadgate decode --scan - < serial.log      frames among other octets; garbage is reported

A line of a file holds whole frames (or one APDU); # starts a comment. FE octets before a frame are skipped.
Exit status: 0 all good, 1 something is broken, 2 nothing to read."""


class Line(NamedTuple):
    """One line of input; `number` is None for octets given as arguments."""

    number: int | None
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `loadgate decode`."""
    parser.description = "Decode DL/T 698.45 frames or APDUs."
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("hex", nargs="*", metavar="HEX", help="octets: 68 17 00, 681700, 0x68,0x17; - reads stdin")
    parser.add_argument("--file", metavar="F", help="read lines of octets from a file")
    parser.add_argument("--apdu", action="store_true", help="the octets are APDUs without their frames")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--scan", action="store_true", help="find frames among any octets and report the garbage")


def run(args: argparse.Namespace) -> int:
    """Decode what the arguments name; the exit status."""
    try:
        lines = list(input_lines(args.hex, args.file, "HEX"))
    except (OSError, UsageError) as error:
        print(f"loadgate decode: {error}", file=sys.stderr)
        return USAGE
    if args.scan and args.apdu:
        print("loadgate decode: --scan finds frames; it does not go with --apdu", file=sys.stderr)
        return USAGE
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Chinese terms on a terminal that has none are no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    printer = _Json() if args.json else _Text()
    if args.scan:
        return _scan(lines, printer)
    for line in lines:
        octets = _octets(line, printer)
        if octets is None:
            continue
        if args.apdu:
            printer.apdu(line, octets)
            continue
        for found in whole_frames(octets):
            if isinstance(found.frame, WireError):
                printer.broken(line, octets, found.frame)
            else:
                printer.frame(line, found.offset, found.preamble, found.frame)
    return printer.status


class UsageError(Exception):
    """The arguments do not say what to read."""


def input_lines(words: list[str], file: str | None, what: str) -> Iterator[Line]:
    """Lines of a file or stdin without blank ones and comments, or the arguments as one. Raises UsageError, OSError."""
    if bool(words) == bool(file):
        raise UsageError(f"give one of {what}, - or --file F")
    if words and words != ["-"]:
        yield Line(None, " ".join(words))
        return
    octets = Path(file).read_bytes() if file else sys.stdin.buffer.read()
    # Octets that are no UTF-8 are shown as such, and refused as what they should have been.
    empty = True
    for number, text in enumerate(octets.decode("utf-8", "backslashreplace").splitlines(), 1):
        if text.strip() and not text.lstrip().startswith("#"):
            empty = False
            yield Line(number, text)
    if empty:
        raise UsageError(f"{file or 'stdin'}: there is no line of {what} in it")


def _octets(line: Line, printer: _Json | _Text) -> bytes | None:
    try:
        return octets_of_text(line.text.partition("#")[0])
    except ValueError as error:
        printer.unreadable(line, str(error))
        return None


def _scan(lines: list[Line], printer: _Json | _Text) -> int:
    """Frames anywhere in the octets of all lines."""
    stream = b"".join([octets for line in lines if (octets := _octets(line, printer)) is not None])
    framer = Framer()
    found = framer.feed(stream)
    rest = framer.discard()
    if rest is not None:
        found.append(rest)
    at = 0
    frames = 0
    for item in found:
        if isinstance(item, Garbage):
            printer.garbage(at, item)
            at += item.octets
        else:
            frames += 1
            printer.frame(Line(None, ""), at, 0, item)
            at += len(item.raw)
    if not frames:
        print("loadgate decode: no frame was found", file=sys.stderr)
        return BROKEN
    return printer.status


class _Json:
    """Prints one object a line."""

    def __init__(self) -> None:
        self.status = OK

    def _print(self, line: Line, form: dict[str, Any]) -> None:
        if not form["ok"] and "garbage" not in form:
            self.status = BROKEN
        if line.number is not None:
            form["line"] = line.number
        print(json.dumps(form, ensure_ascii=False))

    def frame(self, line: Line, offset: int, preamble: int, frame: Frame) -> None:
        form = decode_frame(frame)
        if offset:
            form["at"] = offset
        if preamble:
            form["preamble"] = preamble
        self._print(line, form)

    def apdu(self, line: Line, octets: bytes) -> None:
        self._print(line, decode_apdu(octets))

    def broken(self, line: Line, octets: bytes, error: WireError) -> None:
        self._print(line, {"ok": False, "offset": error.offset, "reason": error.reason, "raw": octets.hex().upper()})

    def unreadable(self, line: Line, reason: str) -> None:
        self._print(line, {"ok": False, "offset": 0, "reason": reason})

    def garbage(self, offset: int, garbage: Garbage) -> None:
        self._print(
            Line(None, ""),
            {"ok": False, "offset": offset, "garbage": garbage.reason, "octets": garbage.octets},
        )


class _Text:
    """Prints trees."""

    def __init__(self) -> None:
        self.status = OK
        self._printed = 0

    def _head(self, line: Line, text: str) -> None:
        if self._printed:
            print()
        self._printed += 1
        place = "" if line.number is None else f"line {line.number}: "
        if place or text:
            print(f"{place}{text}".rstrip(": "))

    def frame(self, line: Line, offset: int, preamble: int, frame: Frame) -> None:
        form = decode_frame(frame)
        if not form["ok"]:
            self.status = BROKEN
        service = form.get("service", "broken")
        before = f", {preamble} octets FE before it" if preamble else ""
        self._head(line, f"{service}, {len(frame.raw)} octets{before}")
        print(frame_tree(frame, offset))

    def apdu(self, line: Line, octets: bytes) -> None:
        form = decode_apdu(octets)
        if not form["ok"]:
            self.status = BROKEN
        self._head(line, f"{form.get('service', 'broken APDU')}, {len(octets)} octets")
        print(apdu_tree(octets))

    def broken(self, line: Line, octets: bytes, error: WireError) -> None:
        self.status = BROKEN
        self._head(line, "")
        print(broken_text(octets, error))

    def unreadable(self, line: Line, reason: str) -> None:
        self.status = BROKEN
        self._head(line, f"broken: {reason}")

    def garbage(self, offset: int, garbage: Garbage) -> None:
        self._head(Line(None, ""), f"{offset:5d}  garbage: {garbage.octets} octets ({garbage.reason})")
