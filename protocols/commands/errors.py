"""Why a command cannot be carried out."""

from __future__ import annotations

from typing import Literal

Reason = Literal["bad_argument", "unknown_verb", "wrong_class", "unsupported"]


class Invalid(ValueError):  # noqa: N818 - a command is invalid; the name is part of the interface
    """A command that cannot be carried out: the caller's fault, and the caller is told.

    name: slug of the reason. `bad_argument`: missing, unknown, of another type, out of range; `unknown_verb`;
    `wrong_class`: sent on the topic of another class, or a control that hides in another verb; `unsupported`: right in
    itself, but this terminal (its quirks) or the settings do not have it.
    field: dotted place in the command, `args.relays[0].relay`. text: what is wrong there, and what was expected.
    """

    def __init__(self, name: Reason, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.name = name
        self.field = field
        self.text = text


def bad(field: str, text: str) -> Invalid:
    """The commonest reason."""
    return Invalid("bad_argument", field, text)
