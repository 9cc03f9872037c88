"""The model: octets <-> APDU values for every service of DL/T 698.45, and the annotated tree.

It is written for certainty, not for speed; fast.py takes the services that come by the thousand.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import access, link, proxy, security  # noqa: F401  (importing enters their services in the table)
from .errors import WireError
from .notation import Node, Octets, build_all, parse_all
from .pieces import SERVICES, WITH_KINDS, Apdu, ServerApdu
from .security import PLAIN, SecurityRequest, SecurityResponse

_SURPLUS = 1
"""So many octets behind a complete APDU are accepted (oddity 12)."""
_STRAY_OAD_TAG = 0x51


@dataclass(slots=True)
class Parsed:
    """An APDU with the oddities that were accepted on the way and, if asked for, the tree of its fields."""

    apdu: Apdu
    warnings: list[str]
    nodes: list[Node]


def service_of(octets: bytes, base: int = 0) -> type[Apdu]:
    """The class for these first octets; WireError where there is none."""
    if not octets:
        raise WireError(base, "an APDU has at least one octet")
    head = octets[:2] if octets[0] in WITH_KINDS else octets[:1]
    kind = SERVICES.get(bytes(head))
    if kind is None:
        if octets[0] not in WITH_KINDS:
            raise WireError(base, f"APDU tag {octets[0]:02X} is not known")
        if len(octets) < 2:
            raise WireError(base + 1, f"service {octets[0]:02X}: octets end before its kind")
        raise WireError(base + 1, f"service {octets[0]:02X} has no kind {octets[1]:02X}")
    return kind


def _parse(octets: bytes, kind: type[Apdu], base: int, *, trace: bool, flat: bool) -> Parsed:
    head = len(kind.HEAD)
    stream = Octets(octets, trace=trace, flat=flat, base=base)
    stream.seek(head)
    apdu = parse_all(kind.WIRE, stream)
    left = stream.left()
    if left > _SURPLUS:
        raise WireError(base + stream.tell(), f"{left} octets are left over behind {kind.SERVICE}")
    if left:
        stream.warn("surplus-octet")
    return Parsed(apdu, stream.warnings, stream.trace or [])


def parse(octets: bytes, *, trace: bool = False, base: int = 0) -> Parsed:
    """The APDU that `octets` are. Raises WireError.

    With `trace`, `nodes` holds a line for each field; `base` is the offset of the first octet in what the reader sees.
    """
    kind = service_of(octets, base)
    try:
        parsed = _parse(octets, kind, base, trace=trace, flat=True)
    except WireError as first:
        parsed = _parse_odd(octets, kind, base, first, trace=trace)
    else:
        if "surplus-octet" in parsed.warnings or "tail-missing" in parsed.warnings:
            # ROAD columns read flat that do not end at the tails may be one Data each (wire.md b.6).
            nested = _nested_or_none(octets, kind, base, trace=trace)
            if nested is not None:
                return nested
    return parsed


def _nested_or_none(octets: bytes, kind: type[Apdu], base: int, *, trace: bool) -> Parsed | None:
    if not issubclass(kind, ServerApdu):
        return None
    try:
        nested = _parse(octets, kind, base, trace=trace, flat=False)
    except WireError:
        return None
    if "surplus-octet" in nested.warnings or "tail-missing" in nested.warnings:
        return None
    nested.warnings.append("road-nested")
    return nested


def _parse_odd(octets: bytes, kind: type[Apdu], base: int, first: WireError, *, trace: bool) -> Parsed:
    """The two ways in which a whole APDU may be written oddly; `first` is what is wrong with the plain reading."""
    nested = _nested_or_none(octets, kind, base, trace=trace)
    if nested is not None:
        return nested
    if kind is access.ReportNotificationList and len(octets) > 9 and octets[4] == _STRAY_OAD_TAG:
        # One firmware puts the data tag of an OAD before the OAD (oddity 24).
        try:
            parsed = _parse(octets[:4] + octets[5:], kind, base, trace=trace, flat=True)
        except WireError:
            raise first from None
        parsed.warnings.append("stray-oad-tag")
        for node in parsed.nodes:
            # The octet that was left out counts again.
            node.start += node.start >= base + 4
            node.end += node.end > base + 4
        return parsed
    raise first


def build(apdu: Apdu) -> bytes:
    """The octets of an APDU. Raises BuildError where a value has no encoding."""
    return apdu.HEAD + build_all(apdu.WIRE, apdu)


def inner_of(apdu: SecurityRequest | SecurityResponse) -> bytes | None:
    """The APDU inside a plaintext envelope; None for ciphertext and refusals."""
    content = apdu.unit.content
    return content if apdu.unit.mode == PLAIN and isinstance(content, bytes) else None
