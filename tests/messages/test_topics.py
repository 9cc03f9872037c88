"""Topics: built, parsed, filtered; what cannot be a level of a topic."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages import ROUTES, BadMessage, Kind, TopicAddress, Topics
from messages.topics import MAX_PART, MAX_PREFIX

topics = Topics()
T = "112233445566"

TABLE: list[tuple[str, TopicAddress]] = [
    (topics.reading(T), TopicAddress(kind="reading", terminal=T)),
    (topics.alarm(T), TopicAddress(kind="alarm", terminal=T)),
    (topics.ack(T), TopicAddress(kind="ack", terminal=T)),
    (topics.state(T), TopicAddress(kind="state", terminal=T)),
    (topics.raw_up(T), TopicAddress(kind="raw_up", terminal=T)),
    (topics.raw_down(T), TopicAddress(kind="raw_down", terminal=T)),
    (topics.command(T, "query"), TopicAddress(kind="command", terminal=T, command_class="query")),
    (topics.command(T, "config"), TopicAddress(kind="command", terminal=T, command_class="config")),
    (topics.command(T, "control"), TopicAddress(kind="command", terminal=T, command_class="control")),
    (topics.group_command("east"), TopicAddress(kind="group_command", group="east", command_class="control")),
    (topics.node_status("n1"), TopicAddress(kind="node_status", node="n1")),
    (topics.cancel("n1"), TopicAddress(kind="cancel", node="n1")),
    (topics.control_switch("n1"), TopicAddress(kind="control_switch", node="n1")),
    (topics.group_config("g"), TopicAddress(kind="group_config", group="g", command_class="config")),
    (topics.collection("n1"), TopicAddress(kind="collection", node="n1")),
    (topics.replay("n1"), TopicAddress(kind="replay", node="n1")),
]


NODE_KINDS = ["node_status", "replay", "cancel", "control_switch", "collection"]


def test_topics_as_they_stand() -> None:
    assert [topic for topic, _ in TABLE] == [
        "loadgate/v1/terminal/112233445566/reading",
        "loadgate/v1/terminal/112233445566/alarm",
        "loadgate/v1/terminal/112233445566/ack",
        "loadgate/v1/terminal/112233445566/state",
        "loadgate/v1/terminal/112233445566/raw/up",
        "loadgate/v1/terminal/112233445566/raw/down",
        "loadgate/v1/terminal/112233445566/command/query",
        "loadgate/v1/terminal/112233445566/command/config",
        "loadgate/v1/terminal/112233445566/command/control",
        "loadgate/v1/group/east/command/control",
        "loadgate/v1/node/n1/status",
        "loadgate/v1/node/n1/cancel",
        "loadgate/v1/node/n1/control",
        "loadgate/v1/group/g/command/config",
        "loadgate/v1/node/n1/collection",
        "loadgate/v1/node/n1/replay",
    ]


@pytest.mark.parametrize(("topic", "address"), TABLE)
def test_parse(topic: str, address: TopicAddress) -> None:
    assert topics.parse(topic) == address
    assert topics.build(address) == topic
    assert address.message is ROUTES[address.kind].message


def test_table_is_complete() -> None:
    assert {address.kind for _, address in TABLE} == set(ROUTES) == set(get_args(Kind))


def test_delivery_follows_the_contract() -> None:
    assert {kind for kind, route in ROUTES.items() if route.retain} == {"state", "node_status"}
    assert {kind for kind, route in ROUTES.items() if route.qos == 0} == {"raw_up", "raw_down"}
    assert {kind for kind, route in ROUTES.items() if not route.up} == {
        "command",
        "group_command",
        "group_config",
        "replay",
        "cancel",
        "control_switch",
    }


parts = st.text(st.characters(codec="utf-8", exclude_characters="/+#\0"), min_size=1, max_size=MAX_PART)
addresses = st.one_of(
    st.builds(
        TopicAddress,
        kind=st.sampled_from(["reading", "alarm", "ack", "state", "raw_up", "raw_down"]),
        terminal=parts,
    ),
    st.builds(
        TopicAddress,
        kind=st.just("command"),
        terminal=parts,
        command_class=st.sampled_from(["query", "config", "control"]),
    ),
    st.builds(TopicAddress, kind=st.just("group_command"), group=parts, command_class=st.just("control")),
    st.builds(
        TopicAddress,
        kind=st.sampled_from(["node_status", "replay", "cancel", "control_switch", "collection"]),
        node=parts,
    ),
)
prefixes = st.lists(parts.filter(lambda part: not part.startswith("$") and len(part) < 40), min_size=1, max_size=4)


@given(addresses, prefixes.map("/".join))
def test_parse_is_the_inverse_of_build(address: TopicAddress, prefix: str) -> None:
    under = Topics(prefix)
    topic = under.build(address)
    assert topic.startswith(f"{prefix}/")
    assert under.parse(topic) == address
    assert matches(under.filter(address.kind), topic)
    assert matches(under.filter(address.kind, only=address.terminal or address.group or address.node), topic)
    assert matches(under.everything(), topic)


words = [
    "loadgate",
    "v1",
    "terminal",
    "group",
    "node",
    "command",
    "raw",
    "up",
    "status",
    "reading",
    "",
    "+",
    "x",
]


@given(
    st.text()
    | st.lists(st.sampled_from(words), max_size=7).map("/".join)
    | st.lists(st.sampled_from(words), max_size=4).map(lambda levels: "/".join(["loadgate/v1", *levels]))
)
def test_what_parses_builds_again(topic: str) -> None:
    with suppress(BadMessage):
        assert topics.build(topics.parse(topic)) == topic


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "loadgate/v1",
        "loadgate/v1/",
        "loadgate/v2/terminal/1/reading",
        "xloadgate/v1/terminal/1/reading",
        "loadgate/v1/terminal//reading",
        "loadgate/v1/terminal/+/reading",
        "loadgate/v1/terminal/1/reading/",
        "loadgate/v1/terminal/1/reading/2",
        "loadgate/v1/terminal/1/command",
        "loadgate/v1/terminal/1/command/trip",
        "loadgate/v1/group/1/command/query",
        "loadgate/v1/node/1/raw",
        "loadgate/v1/Terminal/1/reading",
    ],
)
def test_not_a_topic_of_the_contract(topic: str) -> None:
    with pytest.raises(BadMessage):
        topics.parse(topic)


BAD_PARTS = ["", "a/b", "+", "1+", "#", "a#", "a\0b", "x" * (MAX_PART + 1)]


@pytest.mark.parametrize("part", BAD_PARTS)
def test_bad_levels_are_refused(part: str) -> None:
    calls: list[Any] = [
        topics.reading,
        topics.alarm,
        topics.ack,
        topics.state,
        topics.raw_up,
        topics.raw_down,
        lambda level: topics.command(level, "query"),
        topics.group_command,
        topics.node_status,
        topics.replay,
        lambda level: topics.filter("reading", only=level),
        lambda level: topics.filter("reading", share=level),
    ]
    for call in calls:
        with pytest.raises(BadMessage) as caught:
            call(part)
        assert caught.value.where in {"terminal", "group", "node", "only", "share"}


@pytest.mark.parametrize("prefix", ["", "/a", "a/", "a//b", "a/+", "#", "$SYS", "$share/x", "a/" * MAX_PREFIX + "a"])
def test_bad_prefix(prefix: str) -> None:
    with pytest.raises(BadMessage) as caught:
        Topics(prefix)
    assert caught.value.where == "prefix"


def test_bad_command_class() -> None:
    with pytest.raises(BadMessage, match="class"):
        topics.command(T, "trip")  # type: ignore[arg-type]
    with pytest.raises(BadMessage, match="class"):
        topics.build(TopicAddress(kind="command", terminal=T))


def test_filters() -> None:
    assert topics.filter("reading") == "loadgate/v1/terminal/+/reading"
    assert topics.filter("reading", only=T) == f"loadgate/v1/terminal/{T}/reading"
    assert topics.filter("reading", share="billing") == "$share/billing/loadgate/v1/terminal/+/reading"
    assert topics.filter("command") == "loadgate/v1/terminal/+/command/+"
    assert topics.filter("group_command") == "loadgate/v1/group/+/command/control"
    assert topics.filter("node_status") == "loadgate/v1/node/+/status"
    assert topics.everything() == "loadgate/v1/#"
    assert topics.everything(share="s") == "$share/s/loadgate/v1/#"


@pytest.mark.parametrize(("topic", "address"), TABLE)
def test_a_filter_takes_its_own_kind_only(topic: str, address: TopicAddress) -> None:
    assert [kind for kind in ROUTES if matches(topics.filter(ROUTES[kind].kind), topic)] == [address.kind]


def test_cache_is_bounded() -> None:
    small = Topics("p", cached_terminals=2)
    for number in range(5):
        assert small.reading(str(number)) == f"p/terminal/{number}/reading"
    info = small.terminal.cache_info()
    assert (info.currsize, info.maxsize) == (2, 2)
    assert small.reading("4") is small.reading("4")


def matches(subscription: str, topic: str) -> bool:
    """MQTT's matching of topic filters, without the rule for $ topics."""
    wanted, levels = subscription.split("/"), topic.split("/")
    if wanted[-1] == "#":
        return len(levels) >= len(wanted) - 1 and matches("/".join(wanted[:-1]), "/".join(levels[: len(wanted) - 1]))
    return len(wanted) == len(levels) and all(w in {"+", level} for w, level in zip(wanted, levels, strict=True))
