"""`python -m wire698 HEX`: the annotated tree of frames, or of one APDU, written as hexadecimal octets."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from .errors import WireError
from .hexline import octets_of_text, whole_frames
from .tree import apdu_tree, broken_text, frame_tree

_EXAMPLES = """examples:
  python -m wire698 68 17 00 43 05 12 90 78 56 34 12 10 22 3E 05 01 01 40 01 02 00 00 C6 07 16
  python -m wire698 --apdu 850101400102000004 0000
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tree; 1 where something is broken, 2 for octets that are none."""
    parser = argparse.ArgumentParser(
        prog="python -m wire698",
        description="Decode DL/T 698.45 octets to an annotated tree.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("hex", nargs="+", metavar="HEX", help="octets: 68 17 00, 681700 or 0x68,0x17,0x00")
    parser.add_argument("--apdu", action="store_true", help="the octets are an APDU without its frame")
    options = parser.parse_args(arguments)
    try:
        octets = octets_of_text(" ".join(options.hex))
    except ValueError as error:
        parser.error(str(error))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Chinese terms on a terminal that has none are no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    if options.apdu:
        print(apdu_tree(octets))
        return 0
    status = 0
    for found in whole_frames(octets):
        if isinstance(found.frame, WireError):
            print(broken_text(octets, found.frame))
            status = 1
        else:
            print(frame_tree(found.frame, found.offset))
    return status


if __name__ == "__main__":
    sys.exit(main())
