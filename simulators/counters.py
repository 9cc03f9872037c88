"""What a fleet counts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """One set for a whole fleet; every member only grows, except `online`.

    withheld: reports that were not made because a terminal's queue was full (the record stays readable).
    stale_acks: acknowledgements that matched no report in flight. given_up: transfers of fragments that were.
    controls, refused_controls: methods carried out, and refused; switches: movements of relays; ignored: requests that
    silent terminals did not answer. clock_offset_ms: the largest offset to the master's clock that a LINK-Response
    showed.
    """

    connections: int = 0
    connect_failures: int = 0
    disconnects: int = 0
    online: int = 0
    logins: int = 0
    refused_logins: int = 0
    logouts: int = 0
    heartbeats: int = 0
    link_timeouts: int = 0
    reports_made: int = 0
    reports_sent: int = 0
    retries: int = 0
    acknowledged: int = 0
    stale_acks: int = 0
    withheld: int = 0
    events: int = 0
    requests: int = 0
    refused_requests: int = 0
    controls: int = 0
    refused_controls: int = 0
    switches: int = 0
    ignored: int = 0
    given_up: int = 0
    frames_in: int = 0
    frames_out: int = 0
    foreign: int = 0
    garbage: int = 0
    clock_offset_ms: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)

    def fault(self, name: str) -> None:
        """A fault of the line was played."""
        self.faults[name] = self.faults.get(name, 0) + 1
