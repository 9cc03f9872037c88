"""SECURITY envelopes 安全传输 as far as they can be opened here: plaintext."""

from __future__ import annotations

from typing import Final

from wire698 import model
from wire698.errors import WireError
from wire698.fast import FastDecoder
from wire698.pieces import Apdu
from wire698.security import SecurityRequest, SecurityResponse
from wire698.values import Dar

ENVELOPES: Final = frozenset({SecurityRequest, SecurityResponse})


def opened(envelope: Apdu, decoder: FastDecoder) -> tuple[bytes, Apdu, list[str] | None]:
    """Octets, APDU and oddities of what is inside. Raises WireError for ciphertext, a refusal, another envelope."""
    assert isinstance(envelope, SecurityRequest | SecurityResponse)
    inner = model.inner_of(envelope)
    if inner is None:
        what = "a refusal" if isinstance(envelope.unit.content, Dar) else "ciphertext"
        raise WireError(0, f"{envelope.SERVICE} holds {what}")
    apdu, oddities = decoder.parse(inner)
    if type(apdu) in ENVELOPES:
        raise WireError(0, "a SECURITY envelope within another")
    return inner, apdu, oddities
