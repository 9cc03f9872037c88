"""The little of DL/T 645-2007 that a meter on the terminal's RS-485 line answers (transparent forwarding 透明转发).

Frame: 68 A0..A5 68 C L data CS 16: address BCD, last digits first; data octets with 33H added; CS the sum mod 256.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .world import Meter, Reading

_READ, _ANSWER, _REFUSE = 0x11, 0x91, 0xD1
_NO_SUCH_DATA = b"\x02"


def _bcd(value: int, octets: int) -> bytes:
    digits = f"{value % 10 ** (2 * octets):0{2 * octets}d}"
    return bytes.fromhex(digits)[::-1]


_ITEMS: dict[int, Callable[[Reading], bytes]] = {
    0x00000000: lambda r: _bcd(r.energy_import[0], 4),
    0x00010000: lambda r: _bcd(r.energy_import[0], 4),
    0x0001FF00: lambda r: b"".join(_bcd(value, 4) for value in r.energy_import),
    0x00020000: lambda r: _bcd(r.energy_export[0], 4),
    0x02010100: lambda r: _bcd(r.voltage[0], 2),
    0x02010200: lambda r: _bcd(r.voltage[1], 2),
    0x02010300: lambda r: _bcd(r.voltage[2], 2),
    0x0201FF00: lambda r: b"".join(_bcd(value, 2) for value in r.voltage),
    0x02020100: lambda r: _bcd(r.current[0], 3),
    0x0202FF00: lambda r: b"".join(_bcd(value, 3) for value in r.current),
    # XX.XXXX kW: the register's 0.1 W is its last digit.
    0x02030000: lambda r: _bcd(r.active[0], 3),
    0x02060000: lambda r: _bcd(r.power_factor[0], 2),
}
"""Data identifiers 数据标识: energy XXXXXX.XX kWh, voltage XXX.X V, current XXX.XXX A, power factor X.XXX."""


def answer(command: bytes, meters: Sequence[Meter], at: float) -> bytes | None:
    """What comes back on the line within the time allowed; None: silence (no such meter, broken frame)."""
    frame = command.lstrip(b"\xfe")
    if len(frame) < 12 or frame[0] != 0x68 or frame[7] != 0x68 or frame[-1] != 0x16:
        return None
    size = frame[9]
    if len(frame) != 12 + size or sum(frame[:-2]) & 0xFF != frame[-2]:
        return None
    digits = frame[6:0:-1].hex()
    meter = next((m for m in meters if _matches(digits, m.address)), None)
    if meter is None or frame[8] != _READ or size < 4:
        return None
    asked = bytes((octet - 0x33) & 0xFF for octet in frame[10:14])
    item = _ITEMS.get(int.from_bytes(asked, "little"))
    address = bytes.fromhex(meter.address.zfill(12)[-12:])[::-1]
    if item is None:
        return _frame(address, _REFUSE, _NO_SUCH_DATA)
    return _frame(address, _ANSWER, asked + item(meter.read(at)))


def _matches(digits: str, address: str) -> bool:
    wanted = address.zfill(12)[-12:]
    return all(a in ("a", b) for a, b in zip(digits, wanted, strict=True))


def _frame(address: bytes, control: int, data: bytes) -> bytes:
    body = b"\x68" + address + b"\x68" + bytes((control, len(data))) + bytes((o + 0x33) & 0xFF for o in data)
    return b"\xfe\xfe\xfe\xfe" + body + bytes((sum(body) & 0xFF, 0x16))
