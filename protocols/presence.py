"""Presence 在线状态 of a terminal: valid frames against the heartbeat that it promised, not its socket.

offline --heard--> online --late--> suspect --missed--> offline
^                 |
+-----heard-------+          any --logout--> offline
"""

from __future__ import annotations

from typing import Final, Literal

Presence = Literal["online", "suspect", "offline"]
Trigger = Literal["heard", "late", "missed", "logout"]

TRANSITIONS: Final[dict[tuple[Presence, Trigger], Presence]] = {
    ("offline", "heard"): "online",
    ("offline", "late"): "offline",
    ("offline", "missed"): "offline",
    ("offline", "logout"): "offline",
    ("online", "heard"): "online",
    ("online", "late"): "suspect",
    ("online", "missed"): "offline",
    ("online", "logout"): "offline",
    ("suspect", "heard"): "online",
    ("suspect", "late"): "suspect",
    ("suspect", "missed"): "offline",
    ("suspect", "logout"): "offline",
}
