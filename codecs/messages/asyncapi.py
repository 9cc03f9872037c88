"""The AsyncAPI 3 document of the contract, from the routes, the types and the docstrings."""

from __future__ import annotations

import re
from typing import Any, Final, get_args

from messages.codec import CONTENT_TYPES, Format
from messages.examples import EXAMPLES, as_json
from messages.model import VERBS, CommandClass, Message
from messages.schema import components
from messages.topics import DEFAULT_PREFIX, ROUTES, Route

_BINDING: Final = "0.2.0"
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "terminal": {"description": "Server address of the terminal (终端地址), leading zeros kept."},
    "group": {"description": "Group of terminals (群组) named in the gateway's settings."},
    "node": {"description": "Name of the gateway node."},
    "class": {
        "description": "Class of the command; three topics, so that a broker can give separate rights. "
        + " ".join(f"{name}: {', '.join(sorted(VERBS[name]))}." for name in get_args(CommandClass)),
        "enum": list(get_args(CommandClass)),
    },
}
_SUMMARIES: Final[dict[str, str]] = {
    "reading": "Data of terminals and meters.",
    "alarm": "Events of terminals and meters.",
    "ack": "Every status of every command.",
    "state": "Presence of a terminal; retained.",
    "raw_up": "Frames from the terminal as they came; opt-in per terminal.",
    "raw_down": "Frames to the terminal as they went; opt-in per terminal.",
    "command": "Orders to one terminal; never retained, a retained one is refused.",
    "group_command": "Controls for a group of terminals; never retained, a retained one is refused.",
    "group_config": "Settings for a group of terminals, or `channel.NAME` for a broadcast; never retained.",
    "node_status": "Presence of a gateway node; retained, and its last will.",
    "replay": "Asks a node to publish rows of its journal again.",
    "collection": "How complete collection was, once an hour.",
    "cancel": "Takes back a command that has not been sent.",
    "control_switch": "Turns the kill switch of a node.",
}


def document() -> dict[str, Any]:
    """The AsyncAPI document, seen from the gateway: it sends what is up and receives what is down."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Loadgate",
            "version": "1.0.0",
            "description": (
                "What the front-end server (前置机) of a power load-management system says on MQTT and is "
                "told. Payloads are MessagePack maps, or JSON by setting; a reader tells them apart by the "
                "first octet ({ is JSON). Instants are ms since 1970 UTC. Unknown fields are ignored. "
                f"The prefix {DEFAULT_PREFIX} is a setting."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": CONTENT_TYPES["msgpack"],
        "servers": {"broker": _server()},
        "channels": {kind: _channel(route) for kind, route in ROUTES.items()},
        "operations": {f"{_verb(route)}_{kind}": _operation(route) for kind, route in ROUTES.items()},
        "components": {
            "messages": {
                _message_name(kind, name): _message(kind, name) for kind in EXAMPLES for name in CONTENT_TYPES
            },
            "schemas": components("#/components/schemas/{name}"),
        },
    }


def _server() -> dict[str, Any]:
    will = {
        "topic": f"{DEFAULT_PREFIX}/{ROUTES['node_status'].path}",
        "qos": ROUTES["node_status"].qos,
        "retain": ROUTES["node_status"].retain,
        "message": "a NodeStatus that says offline",
    }
    return {
        "host": "localhost:1883",
        "protocol": "mqtt",
        "protocolVersion": "5.0",
        "description": "Any MQTT 5 or 3.1.1 broker or cluster.",
        "bindings": {"mqtt": {"cleanSession": False, "lastWill": will, "bindingVersion": _BINDING}},
    }


def _channel(route: Route) -> dict[str, Any]:
    return {
        "address": f"{DEFAULT_PREFIX}/{route.path}",
        "summary": _SUMMARIES[route.kind],
        "messages": {
            _message_name(route.message, name): {"$ref": f"#/components/messages/{_message_name(route.message, name)}"}
            for name in CONTENT_TYPES
        },
        "parameters": {name: _PARAMETERS[name] for name in re.findall(r"{(\w+)}", route.path)},
    }


def _operation(route: Route) -> dict[str, Any]:
    return {
        "action": _verb(route),
        "channel": {"$ref": f"#/channels/{route.kind}"},
        "summary": _SUMMARIES[route.kind],
        "bindings": {"mqtt": {"qos": route.qos, "retain": route.retain, "bindingVersion": _BINDING}},
        "messages": [
            {"$ref": f"#/channels/{route.kind}/messages/{_message_name(route.message, name)}"} for name in CONTENT_TYPES
        ],
    }


def _message(kind: type[Message], name: Format) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        "title": f"{kind.__name__} in {'JSON' if name == 'json' else 'MessagePack'}",
        "contentType": CONTENT_TYPES[name],
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "examples": [{"payload": as_json(kind)}],
    }


def _message_name(kind: type[Message], name: Format) -> str:
    return f"{kind.__name__}-{name}"


def _verb(route: Route) -> str:
    return "send" if route.up else "receive"
