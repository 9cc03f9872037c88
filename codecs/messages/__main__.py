"""`python -m messages OUTDIR` writes OUTDIR/asyncapi.yaml and OUTDIR/schemas/*.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from messages.asyncapi import document
from messages.model import MESSAGES
from messages.schema import file_stem, schema
from messages.yaml_text import dumps

_NOTE = "# Generated from the code by `make docs`; do not edit.\n"


def files() -> dict[str, str]:
    """The generated documents: path below the output directory, and text."""
    texts = {
        f"schemas/{file_stem(kind)}.json": json.dumps(schema(kind), ensure_ascii=False, indent=2) + "\n"
        for kind in MESSAGES
    }
    texts["asyncapi.yaml"] = _NOTE + dumps(document())
    return texts


def main(arguments: list[str]) -> int:
    """Write the documents into the directory that is the only argument."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m messages OUTDIR", file=sys.stderr)
        return 2
    for name, text in files().items():
        path = Path(arguments[0], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
