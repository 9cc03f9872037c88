"""DL/T 645 telegrams in octets that go through to a meter or come back: told apart, not interpreted.

68 A0..A5 68 C L DATA CS 16: the address is sent lowest octet first, CS is the sum of all octets before it.
"""

from __future__ import annotations

from messages import Value


def telegram_at(octets: bytes, at: int) -> int | None:
    """Where the telegram that starts at `at` has its checksum; None where no telegram with a good one starts.

    The octet behind the checksum is not looked at: a meter might not do so either.
    """
    if at + 10 > len(octets) or octets[at] != 0x68 or octets[at + 7] != 0x68:
        return None
    end = at + 10 + octets[at + 9]
    return end if end < len(octets) and octets[end] == sum(octets[at:end]) & 0xFF else None


def telegram_in(octets: bytes) -> dict[str, Value] | None:
    """The first telegram: {address, control, data}, data with its 33H taken off; None where there is none."""
    for at in range(len(octets)):
        end = telegram_at(octets, at)
        if end is not None:
            return {
                "address": octets[at + 1 : at + 7][::-1].hex().upper(),
                "control": f"{octets[at + 8]:02X}",
                "data": bytes((octet - 0x33) & 0xFF for octet in octets[at + 10 : end]).hex().upper(),
            }
    return None
