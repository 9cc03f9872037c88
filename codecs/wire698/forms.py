"""Data, selectors and times as JSON and back (see jsonform.py)."""

from __future__ import annotations

import math
import re
from typing import Any

from .values import (
    TAG_BY_LABEL,
    BitString,
    Comdcb,
    Data,
    MeterSet,
    Oad,
    Omd,
    RangeSelector,
    Region,
    Road,
    Rsd,
    ScalerUnit,
    Sid,
    SidMac,
    Tag,
    Ti,
)

ADDRESS_KINDS = ("single", "wildcard", "group", "broadcast")
LINK_KINDS = ("login", "heartbeat", "logout")
_METER_SETS = ("none", "all", "types", "addrs", "seqs", "type_regions", "addr_regions", "seq_regions")


class FormError(ValueError):
    """JSON that says no APDU or frame; the text names the place."""


# --- times --------------------------------------------------------------------------------------------------------


def date_time_s(octets: bytes) -> str:
    """`2025-11-24 10:30:00` from 7 octets, whatever they are."""
    year = octets[0] << 8 | octets[1]
    month, day, hour, minute, second = octets[2:7]
    return f"{year:04d}-{month:02d}-{day:02d} {hour:02d}:{minute:02d}:{second:02d}"


def date_time(octets: bytes) -> str:
    """`2023-07-05 w3 15:24:17.000` from 10 octets; w0 is Sunday."""
    year, milliseconds = octets[0] << 8 | octets[1], octets[8] << 8 | octets[9]
    month, day, weekday, hour, minute, second = octets[2:8]
    return f"{year:04d}-{month:02d}-{day:02d} w{weekday} {hour:02d}:{minute:02d}:{second:02d}.{milliseconds:03d}"


def _date(octets: bytes) -> str:
    return f"{octets[0] << 8 | octets[1]:04d}-{octets[2]:02d}-{octets[3]:02d} w{octets[4]}"


def _time(octets: bytes) -> str:
    return f"{octets[0]:02d}:{octets[1]:02d}:{octets[2]:02d}"


def _numbers(text: Any, pattern: str, sizes: tuple[int, ...], what: str) -> bytes:
    match = re.fullmatch(pattern, text) if isinstance(text, str) else None
    if match is None:
        raise FormError(f"{what}: {text!r:.80} is not of the form {pattern}")
    try:
        return b"".join(int(part).to_bytes(size) for part, size in zip(match.groups(), sizes, strict=True))
    except (OverflowError, ValueError):
        raise FormError(f"{what}: {text!r:.80} has a number that does not fit") from None


def from_date_time_s(text: Any) -> bytes:
    """The 7 octets of `2025-11-24 10:30:00`."""
    return _numbers(text, r"(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+)", (2, 1, 1, 1, 1, 1), "date_time_s")


def from_date_time(text: Any) -> bytes:
    """The 10 octets of `2023-07-05 w3 15:24:17.000`."""
    pattern = r"(\d+)-(\d+)-(\d+) w(\d+) (\d+):(\d+):(\d+)\.(\d+)"
    return _numbers(text, pattern, (2, 1, 1, 1, 1, 1, 1, 2), "date_time")


# --- octets and numbers -------------------------------------------------------------------------------------------


def hex_of(octets: bytes) -> str:
    return octets.hex().upper()


def octets_of(text: Any, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise FormError(f"{what}: {text!r:.80} is not hexadecimal octets") from None


def int_of(value: Any, what: str, most: int | None = None) -> int:
    """A whole number; with `most`, one of 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormError(f"{what}: a whole number expected, not {value!r:.80}")
    if most is not None and not 0 <= value <= most:
        raise FormError(f"{what}: 0 to {most} expected, not {value}")
    return value


def bool_of(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise FormError(f"{what}: true or false expected, not {value!r:.80}")
    return value


def member(form: Any, name: str, what: str) -> Any:
    if not isinstance(form, dict) or name not in form:
        raise FormError(f"{what}: an object with {name!r} expected, not {form!r:.80}")
    return form[name]


def list_of(form: Any, what: str) -> list[Any]:
    if not isinstance(form, list):
        raise FormError(f"{what}: a list expected, not {form!r:.80}")
    return form


def _digits_of(form: Any, size: int, what: str) -> bytes:
    octets = octets_of(form, what)
    if len(octets) != size:
        raise FormError(f"{what}: {2 * size} hexadecimal digits expected, not {form!r:.80}")
    return octets


def text_form(octets: bytes) -> Any:
    try:
        text = octets.decode("gbk")
    except UnicodeDecodeError:
        return {"hex": hex_of(octets)}
    return text if text.encode("gbk") == octets else {"hex": hex_of(octets)}


def from_text(form: Any) -> bytes:
    if isinstance(form, dict):
        return octets_of(member(form, "hex", "text"), "text")
    try:
        return bytes(form.encode("gbk"))
    except (AttributeError, UnicodeEncodeError):
        raise FormError(f"text: {form!r:.80} has no GBK form") from None


def oad_of(form: Any) -> Oad:
    try:
        return Oad.of(form)
    except (TypeError, ValueError):
        raise FormError(f"oad: 8 hexadecimal digits expected, not {form!r:.80}") from None


def omd_of(form: Any) -> Omd:
    return Omd(oad_of(form))


# --- data ---------------------------------------------------------------------------------------------------------


def data_form(item: Data) -> dict[str, Any]:
    """`{"t": type, "v": value}`."""
    return {"t": item.tag.label, "v": value_form(item.tag, item.value)}


def value_form(tag: Tag, value: Any) -> Any:
    match tag:
        case Tag.ARRAY | Tag.STRUCTURE:
            return [data_form(item) for item in value]
        case Tag.BIT_STRING:
            return {"bits": value.bits, "hex": hex_of(value.octets)}
        case Tag.VISIBLE_STRING | Tag.UTF8_STRING:
            return text_form(value)
        case Tag.OCTET_STRING | Tag.TSA | Tag.MAC | Tag.RN:
            return hex_of(value)
        case Tag.DATE_TIME_S:
            return date_time_s(value)
        case Tag.DATE_TIME:
            return date_time(value)
        case Tag.DATE:
            return _date(value)
        case Tag.TIME:
            return _time(value)
        case Tag.OI:
            return f"{value:04X}"
        case Tag.OAD | Tag.OMD:
            return str(value)
        case Tag.FLOAT32 | Tag.FLOAT64:
            return value if math.isfinite(value) else repr(value)
        case Tag.CSD | Tag.ROAD:
            return csd_form(value)
        case Tag.RCSD:
            return [csd_form(csd) for csd in value]
        case Tag.REGION:
            return {"unit": value.kind, "from": data_form(value.start), "to": data_form(value.end)}
        case Tag.TI:
            return {"unit": value.unit, "n": value.n}
        case Tag.SCALER_UNIT:
            return {"scaler": value.scaler, "unit": value.unit}
        case Tag.RSD:
            return _rsd_form(value)
        case Tag.MS:
            return _ms_form(value)
        case Tag.SID:
            return {"id": f"{value.id:08X}", "attach": hex_of(value.attach)}
        case Tag.SID_MAC:
            return {"id": f"{value.sid.id:08X}", "attach": hex_of(value.sid.attach), "mac": hex_of(value.mac)}
        case Tag.COMDCB:
            return list(value)
        case _:
            return value


def data_of(form: Any) -> Data:
    """The Data that `{"t": type, "v": value}` says. Raises FormError."""
    label = member(form, "t", "data")
    tag = TAG_BY_LABEL.get(label) if isinstance(label, str) else None
    if tag is None:
        raise FormError(f"data: type {label!r:.80} is not known")
    return Data(tag, value_of(tag, member(form, "v", label), label))


def value_of(tag: Tag, form: Any, what: str) -> Any:
    match tag:
        case Tag.NULL:
            if form is not None:
                raise FormError(f"null: has no value, not {form!r:.80}")
            return None
        case Tag.BOOL:
            return bool_of(form, what)
        case Tag.ARRAY | Tag.STRUCTURE:
            return tuple([data_of(item) for item in list_of(form, what)])
        case Tag.BIT_STRING:
            return BitString(int_of(member(form, "bits", what), what), octets_of(member(form, "hex", what), what))
        case Tag.VISIBLE_STRING | Tag.UTF8_STRING:
            return from_text(form)
        case Tag.OCTET_STRING | Tag.TSA | Tag.MAC | Tag.RN:
            return octets_of(form, what)
        case Tag.DATE_TIME_S:
            return from_date_time_s(form)
        case Tag.DATE_TIME:
            return from_date_time(form)
        case Tag.DATE:
            return _numbers(form, r"(\d+)-(\d+)-(\d+) w(\d+)", (2, 1, 1, 1), what)
        case Tag.TIME:
            return _numbers(form, r"(\d+):(\d+):(\d+)", (1, 1, 1), what)
        case Tag.OI:
            return int.from_bytes(_digits_of(form, 2, what))
        case Tag.OAD:
            return oad_of(form)
        case Tag.OMD:
            return omd_of(form)
        case Tag.FLOAT32 | Tag.FLOAT64:
            try:
                return float(form)
            except (TypeError, ValueError, OverflowError):
                raise FormError(f"{what}: a number expected, not {form!r:.80}") from None
        case Tag.CSD | Tag.ROAD:
            return csd_of(form)
        case Tag.RCSD:
            return tuple([csd_of(csd) for csd in list_of(form, what)])
        case Tag.REGION:
            return Region(
                int_of(member(form, "unit", what), what),
                data_of(member(form, "from", what)),
                data_of(member(form, "to", what)),
            )
        case Tag.TI:
            return _ti_of(form)
        case Tag.SCALER_UNIT:
            return ScalerUnit(int_of(member(form, "scaler", what), what), int_of(member(form, "unit", what), what))
        case Tag.RSD:
            return _rsd_of(form)
        case Tag.MS:
            return _ms_of(form)
        case Tag.SID:
            return _sid_of(form)
        case Tag.SID_MAC:
            return SidMac(_sid_of(form), octets_of(member(form, "mac", what), what))
        case Tag.COMDCB:
            return _comdcb_of(form)
        case _:
            return int_of(form, what)


def csd_form(csd: Oad | Road) -> Any:
    if isinstance(csd, Road):
        return {"road": str(csd.oad), "oads": [str(oad) for oad in csd.oads]}
    return str(csd)


def csd_of(form: Any) -> Oad | Road:
    if isinstance(form, dict):
        oads = list_of(member(form, "oads", "road"), "road")
        return Road(oad_of(member(form, "road", "road")), tuple([oad_of(oad) for oad in oads]))
    return oad_of(form)


def _ti_of(form: Any) -> Ti:
    return Ti(int_of(member(form, "unit", "TI"), "TI"), int_of(member(form, "n", "TI"), "TI"))


def _sid_of(form: Any) -> Sid:
    return Sid(
        int.from_bytes(_digits_of(member(form, "id", "SID"), 4, "SID")),
        octets_of(member(form, "attach", "SID"), "SID"),
    )


def _comdcb_of(form: Any) -> Comdcb:
    numbers = [int_of(number, "COMDCB") for number in list_of(form, "COMDCB")]
    if len(numbers) != 5:
        raise FormError(f"COMDCB: five numbers expected, not {form!r:.80}")
    return Comdcb(*numbers)


def _ms_form(ms: MeterSet) -> Any:
    name = _METER_SETS[ms.choice]
    if ms.choice < 2:
        return name
    if ms.choice == 3:
        return {name: [hex_of(tsa) for tsa in ms.items]}
    if ms.choice in (2, 4):
        return {name: list(ms.items)}
    return {name: [value_form(Tag.REGION, region) for region in ms.items]}


def _ms_of(form: Any) -> MeterSet:
    if form in ("none", "all"):
        return MeterSet(_METER_SETS.index(form))
    if not isinstance(form, dict) or len(form) != 1 or next(iter(form)) not in _METER_SETS[2:]:
        raise FormError(f"MS: one of {_METER_SETS} expected, not {form!r:.80}")
    ((name, items),) = form.items()
    choice = _METER_SETS.index(name)
    if choice == 3:
        return MeterSet(3, tuple([octets_of(item, "MS") for item in list_of(items, "MS")]))
    if choice in (2, 4):
        return MeterSet(choice, tuple([int_of(item, "MS") for item in list_of(items, "MS")]))
    return MeterSet(choice, tuple([value_of(Tag.REGION, item, "MS") for item in list_of(items, "MS")]))


def _range_form(selected: RangeSelector) -> dict[str, Any]:
    return {
        "oad": str(selected.oad),
        "from": data_form(selected.start),
        "to": data_form(selected.end),
        "step": data_form(selected.interval),
    }


def _range_of(form: Any) -> RangeSelector:
    return RangeSelector(
        oad_of(member(form, "oad", "RSD")),
        data_of(member(form, "from", "RSD")),
        data_of(member(form, "to", "RSD")),
        data_of(member(form, "step", "RSD")),
    )


def _rsd_form(rsd: Rsd) -> dict[str, Any]:
    form: dict[str, Any] = {"sel": rsd.selector}
    if rsd.selector == 1 and rsd.value is not None:
        form |= {"oad": str(rsd.oad), "value": data_form(rsd.value)}
    elif rsd.selector == 2:
        form |= _range_form(rsd.ranges[0])
    elif rsd.selector == 3:
        form["ranges"] = [_range_form(selected) for selected in rsd.ranges]
    if rsd.at is not None:
        form["time"] = date_time_s(rsd.at)
    if rsd.start is not None and rsd.end is not None and rsd.interval is not None:
        form |= {"from": date_time_s(rsd.start), "to": date_time_s(rsd.end)}
        form["ti"] = {"unit": rsd.interval.unit, "n": rsd.interval.n}
    if rsd.last is not None:
        form["last"] = rsd.last
    if rsd.meters is not None:
        form["ms"] = _ms_form(rsd.meters)
    return form


def _rsd_of(form: Any) -> Rsd:
    def part(name: str) -> Any:
        return member(form, name, "RSD")

    match int_of(part("sel"), "RSD"):
        case 0:
            return Rsd(0)
        case 1:
            return Rsd(1, oad=oad_of(part("oad")), value=data_of(part("value")))
        case 2:
            return Rsd(2, ranges=(_range_of(form),))
        case 3:
            return Rsd(3, ranges=tuple([_range_of(item) for item in list_of(part("ranges"), "RSD")]))
        case 4 | 5 as selector:
            return Rsd(selector, at=from_date_time_s(part("time")), meters=_ms_of(part("ms")))
        case 6 | 7 | 8 as selector:
            return Rsd(
                selector,
                start=from_date_time_s(part("from")),
                end=from_date_time_s(part("to")),
                interval=_ti_of(part("ti")),
                meters=_ms_of(part("ms")),
            )
        case 9:
            return Rsd(9, last=int_of(part("last"), "RSD"))
        case 10:
            return Rsd(10, last=int_of(part("last"), "RSD"), meters=_ms_of(part("ms")))
        case other:
            raise FormError(f"RSD: selector 0 to 10 expected, not {other}")
