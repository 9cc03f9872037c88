"""DL/T 645 telegrams in octets that came through from a meter: told apart, not interpreted."""

from __future__ import annotations

from messages import Value


def telegram_in(octets: bytes) -> dict[str, Value] | None:
    """The first good telegram: {address, control, data}, data with its 33H taken off; None where there is none.

    68 A0..A5 68 C L DATA CS 16: the address is sent lowest octet first, CS is the sum of all octets before it.
    """
    for at in range(len(octets) - 11):
        if octets[at] != 0x68 or octets[at + 7] != 0x68:
            continue
        end = at + 10 + octets[at + 9]
        if end + 1 >= len(octets) or octets[end + 1] != 0x16 or octets[end] != sum(octets[at:end]) & 0xFF:
            continue
        return {
            "address": octets[at + 1 : at + 7][::-1].hex().upper(),
            "control": f"{octets[at + 8]:02X}",
            "data": bytes((octet - 0x33) & 0xFF for octet in octets[at + 10 : end]).hex().upper(),
        }
    return None
