"""The topics of the contract: one table of routes, from which topics are built, parsed and documented."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from messages.errors import BadMessage
from messages.model import (
    COMMAND_CLASSES,
    Ack,
    Alarm,
    CancelRequest,
    CollectionQuality,
    Command,
    CommandClass,
    ControlSwitch,
    Message,
    NodeStatus,
    Raw,
    Reading,
    ReplayRequest,
    State,
)

DEFAULT_PREFIX: Final = "loadgate/v1"
MAX_PART: Final = 128
"""Characters of one level of a topic."""
MAX_PREFIX: Final = 256
"""Characters of the prefix."""
CACHED_TERMINALS: Final = 65_536
"""Terminals whose topics are kept ready, about 1 kB each; beyond, the least recently used is forgotten."""

Kind: TypeAlias = Literal[
    "reading",
    "alarm",
    "ack",
    "state",
    "raw_up",
    "raw_down",
    "command",
    "group_command",
    "group_config",
    "node_status",
    "replay",
    "cancel",
    "control_switch",
    "collection",
]


class Route(Struct, frozen=True, kw_only=True):
    """One row of the contract's table of topics.

    `path` stands behind the prefix, with {terminal}, {group}, {node} and {class}; `up` is from the
    gateway; `qos` and `retain` are the publisher's; `message` is the payload.
    """

    kind: Kind
    path: str
    up: bool
    qos: Literal[0, 1] = 1
    retain: bool = False
    message: type[Message]


ROUTES: Final[dict[str, Route]] = {
    route.kind: route
    for route in (
        Route(kind="reading", path="terminal/{terminal}/reading", up=True, message=Reading),
        Route(kind="alarm", path="terminal/{terminal}/alarm", up=True, message=Alarm),
        Route(kind="ack", path="terminal/{terminal}/ack", up=True, message=Ack),
        Route(kind="state", path="terminal/{terminal}/state", up=True, retain=True, message=State),
        Route(kind="raw_up", path="terminal/{terminal}/raw/up", up=True, qos=0, message=Raw),
        Route(kind="raw_down", path="terminal/{terminal}/raw/down", up=True, qos=0, message=Raw),
        Route(kind="command", path="terminal/{terminal}/command/{class}", up=False, message=Command),
        Route(kind="group_command", path="group/{group}/command/control", up=False, message=Command),
        Route(kind="group_config", path="group/{group}/command/config", up=False, message=Command),
        Route(kind="node_status", path="node/{node}/status", up=True, retain=True, message=NodeStatus),
        Route(kind="replay", path="node/{node}/replay", up=False, message=ReplayRequest),
        Route(kind="cancel", path="node/{node}/cancel", up=False, message=CancelRequest),
        Route(kind="collection", path="node/{node}/collection", up=True, message=CollectionQuality),
        Route(kind="control_switch", path="node/{node}/control", up=False, message=ControlSwitch),
    )
}
"""Every topic, by kind."""


class TopicAddress(Struct, frozen=True, kw_only=True):
    """What a topic says: its kind and, where the kind has them, terminal, group, node, class of command."""

    kind: Kind
    terminal: str | None = None
    group: str | None = None
    node: str | None = None
    command_class: CommandClass | None = None

    @property
    def message(self) -> type[Message]:
        """The type of the payload."""
        return ROUTES[self.kind].message


class TerminalTopics(Struct, frozen=True, kw_only=True, gc=False):
    """The up topics of one terminal."""

    reading: str
    alarm: str
    ack: str
    state: str
    raw_up: str
    raw_down: str


class Topics:
    """Builds and parses the topics under one prefix.

    Builders raise BadMessage for a terminal, group or node that cannot be a level of a topic: empty, longer
    than MAX_PART, or with `/`, `+`, `#` or NUL in it.
    """

    def __init__(self, prefix: str = DEFAULT_PREFIX, *, cached_terminals: int = CACHED_TERMINALS) -> None:
        if len(prefix) > MAX_PREFIX:
            raise BadMessage(f"{len(prefix)} characters", "prefix", f"at most {MAX_PREFIX}")
        for part in prefix.split("/"):
            _level(part, "prefix")
        if prefix.startswith("$"):
            raise BadMessage(f"got {prefix!r}", "prefix", "no leading $, which is the broker's own")
        self.prefix = prefix
        self._head = prefix + "/"
        self.terminal = lru_cache(maxsize=cached_terminals)(self._terminal)

    def _terminal(self, terminal: str) -> TerminalTopics:
        head = f"{self._head}terminal/{_level(terminal, 'terminal')}/"
        return TerminalTopics(
            reading=head + "reading",
            alarm=head + "alarm",
            ack=head + "ack",
            state=head + "state",
            raw_up=head + "raw/up",
            raw_down=head + "raw/down",
        )

    def reading(self, terminal: str) -> str:
        return self.terminal(terminal).reading

    def alarm(self, terminal: str) -> str:
        return self.terminal(terminal).alarm

    def ack(self, terminal: str) -> str:
        return self.terminal(terminal).ack

    def state(self, terminal: str) -> str:
        return self.terminal(terminal).state

    def raw_up(self, terminal: str) -> str:
        return self.terminal(terminal).raw_up

    def raw_down(self, terminal: str) -> str:
        return self.terminal(terminal).raw_down

    def command(self, terminal: str, command_class: CommandClass) -> str:
        if command_class not in COMMAND_CLASSES:
            raise BadMessage(f"got {command_class!r}", "class", "query, config or control")
        return f"{self._head}terminal/{_level(terminal, 'terminal')}/command/{command_class}"

    def group_command(self, group: str) -> str:
        return f"{self._head}group/{_level(group, 'group')}/command/control"

    def group_config(self, group: str) -> str:
        return f"{self._head}group/{_level(group, 'group')}/command/config"

    def node_status(self, node: str) -> str:
        return f"{self._head}node/{_level(node, 'node')}/status"

    def replay(self, node: str) -> str:
        return f"{self._head}node/{_level(node, 'node')}/replay"

    def cancel(self, node: str) -> str:
        return f"{self._head}node/{_level(node, 'node')}/cancel"

    def control_switch(self, node: str) -> str:
        return f"{self._head}node/{_level(node, 'node')}/control"

    def collection(self, node: str) -> str:
        return f"{self._head}node/{_level(node, 'node')}/collection"

    def build(self, address: TopicAddress) -> str:
        """The topic of `address`; `parse` is its inverse."""
        match address.kind:
            case "command":
                if address.command_class is None:
                    raise BadMessage("missing", "class", "query, config or control")
                return self.command(address.terminal or "", address.command_class)
            case "group_command":
                return self.group_command(address.group or "")
            case "group_config":
                return self.group_config(address.group or "")
            case "node_status" | "replay" | "cancel" | "control_switch" | "collection":
                return f"{self._head}{ROUTES[address.kind].path.format(node=_level(address.node or '', 'node'))}"
        topic: str = getattr(self.terminal(address.terminal or ""), address.kind)
        return topic

    def parse(self, topic: str) -> TopicAddress:
        """The address of a topic of the contract. Raises BadMessage for any other."""
        if not topic.startswith(self._head):
            raise BadMessage(f"got {topic!r:.200}", "topic", f"a topic under {self.prefix}")
        match topic[len(self._head) :].split("/"):
            case ["terminal", terminal, "reading" | "alarm" | "ack" | "state" as kind]:
                return TopicAddress(kind=kind, terminal=_level(terminal, "terminal"))
            case ["terminal", terminal, "raw", "up"]:
                return TopicAddress(kind="raw_up", terminal=_level(terminal, "terminal"))
            case ["terminal", terminal, "raw", "down"]:
                return TopicAddress(kind="raw_down", terminal=_level(terminal, "terminal"))
            case ["terminal", terminal, "command", "query" | "config" | "control" as command_class]:
                terminal = _level(terminal, "terminal")
                return TopicAddress(kind="command", terminal=terminal, command_class=command_class)
            case ["group", group, "command", "control"]:
                return TopicAddress(kind="group_command", group=_level(group, "group"), command_class="control")
            case ["group", group, "command", "config"]:
                return TopicAddress(kind="group_config", group=_level(group, "group"), command_class="config")
            case ["node", node, "status"]:
                return TopicAddress(kind="node_status", node=_level(node, "node"))
            case ["node", node, "replay"]:
                return TopicAddress(kind="replay", node=_level(node, "node"))
            case ["node", node, "cancel"]:
                return TopicAddress(kind="cancel", node=_level(node, "node"))
            case ["node", node, "collection"]:
                return TopicAddress(kind="collection", node=_level(node, "node"))
            case ["node", node, "control"]:
                return TopicAddress(kind="control_switch", node=_level(node, "node"))
        raise BadMessage(f"got {topic!r:.200}", "topic", "a topic of the contract")

    def filter(self, kind: Kind, *, only: str | None = None, share: str | None = None) -> str:
        """The subscription to all topics of `kind`, or to those of `only` one terminal, group or node.

        Commands come in all three classes. `share` makes it a shared subscription of that group of consumers.
        """
        one = "+" if only is None else _level(only, "only")
        path = ROUTES[kind].path.replace("{class}", "+")
        for name in ("{terminal}", "{group}", "{node}"):
            path = path.replace(name, one)
        return self._shared(share) + self._head + path

    def everything(self, *, share: str | None = None) -> str:
        """The subscription to all topics under the prefix."""
        return self._shared(share) + self._head + "#"

    @staticmethod
    def _shared(share: str | None) -> str:
        return "" if share is None else f"$share/{_level(share, 'share')}/"


def _level(part: str, name: str) -> str:
    """`part` when it can be one level of a topic."""
    if not part or len(part) > MAX_PART:
        raise BadMessage(f"{len(part)} characters", name, f"1 to {MAX_PART}")
    if "/" in part or "+" in part or "#" in part or "\0" in part:
        raise BadMessage(f"got {part!r}", name, "no / + # or NUL")
    return part
