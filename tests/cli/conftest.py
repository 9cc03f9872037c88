"""Makes the parts of the end-to-end tests importable: `tests` is no package."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for directory in (HERE.parent / "protocols", HERE.parent / "e2e", HERE.parent / "commands"):
    sys.path.insert(0, str(directory))
