"""What is wrong with a payload or a topic that came from outside."""

from __future__ import annotations


class BadMessage(ValueError):  # noqa: N818 - the name that the contract's readers know
    """A payload or topic that does not follow the contract: the sender's fault, to be counted and set aside.

    `what` is wrong, `where` (path of the field, empty for the whole) and what was `expected` there.
    """

    def __init__(self, what: str, where: str = "", expected: str = "") -> None:
        super().__init__(what, where, expected)
        self.what = what
        self.where = where
        self.expected = expected

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        wanted = f"; expected {self.expected}" if self.expected else ""
        return f"{place}{self.what}{wanted}"


class UnknownVersion(BadMessage):
    """A message of a later contract: to be dead-lettered unread. `version` is its `v`."""

    def __init__(self, version: int) -> None:
        super().__init__(f"unknown version {version}", "v", "1")
        self.version = version

    def __reduce__(self) -> tuple[type[UnknownVersion], tuple[int]]:
        return UnknownVersion, (self.version,)
