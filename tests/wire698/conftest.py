"""Makes strategies.py importable for the tests of wire698, and reads the vectors.

`tests` is not a package (a dependency installs one of that name), so the module is loaded by its path.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("strategies698", Path(__file__).parent / "strategies.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["strategies698"] = _module
_spec.loader.exec_module(_module)
