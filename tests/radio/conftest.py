"""Makes `radio_parts.py` and the parts of other tests that it uses importable."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for directory in (HERE, HERE.parent / "gateway", HERE.parent / "protocols", HERE.parent / "e2e"):
    sys.path.insert(0, str(directory))
