"""Settings: the commented file, its round trip, every error with its text; the other files of config/."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.settings import (
    Channel,
    Http,
    JournalFile,
    Log,
    Mqtt,
    Node,
    Protocol,
    Settings,
    SettingsError,
    Terminals,
    commented_toml,
    load,
    pattern_filter,
    split_listen,
    time_zone,
)
from tests.gateway.mosquitto import Mosquitto

CONFIG = Path(__file__).parents[2] / "config"
ADDRESSES = 'expected an array of addresses or prefixes, such as "112233445566" or "1122*"'
TOPIC = 'expected levels of a topic such as "loadgate/v1", without + # $, 1 to 256 characters'
POINTS = 'expected an array of names or OADs, such as "voltage" or "oad:20000200"'


def write(directory: Path, text: str) -> Path:
    path = directory / "gateway.toml"
    path.write_bytes(text.encode())
    return path


def errors(directory: Path, text: str, overrides: dict[str, object] | None = None) -> list[str]:
    """The lines of the error, without the directory."""
    path = write(directory, text)
    with pytest.raises(SettingsError) as caught:
        load(path, overrides)
    lines = str(caught.value).replace(str(path), "gateway.toml").split("\n")
    assert len(lines) == len(caught.value.problems)
    return lines


# -- the commented file ---------------------------------------------------------------------------------------


def test_checked_in_file_is_what_the_definitions_print():
    assert (CONFIG / "gateway.toml").read_text(encoding="utf-8") == commented_toml(Settings())


def test_checked_in_file_gives_the_defaults():
    assert load(CONFIG / "gateway.toml") == Settings() == load(None)


def test_every_setting_stands_in_the_file_under_its_comment():
    lines = commented_toml(Settings()).splitlines()
    for section in (Node, Channel, Terminals, Protocol, Mqtt, JournalFile, Http, Log):
        for name in section.__struct_fields__:
            at = [index for index, line in enumerate(lines) if line.startswith(f"{name} = ")]
            assert at, name
            assert all(lines[index - 1].startswith("# (") and lines[index - 2].startswith("# ") for index in at), name


def test_large_numbers_are_said_in_the_units_of_people():
    text = commented_toml(Settings())
    assert "max_bytes = 21_474_836_480  # 20 GiB\n" in text
    assert "keep_s = 604_800.0  # 7 days\n" in text
    assert "client_address = 0x10\n" in text


TEXTS: dict[str, st.SearchStrategy[Any]] = {
    "id": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"),
    "name": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"),
    "listen": st.builds("{}:{}".format, st.sampled_from(["0.0.0.0", "[::1]", "gate.example"]), st.integers(0, 65_535)),
    "time_zone": st.sampled_from(["Asia/Shanghai", "Asia/Urumqi", "+08:00", "-03:30", "UTC"]),
    "url": st.builds(
        "{}://{}broker.example{}".format,
        st.just("mqtts"),
        st.sampled_from(["", "user:p%40ss@", 'a:"\\@']),
        st.sampled_from(["", ":1883", ":1/"]),
    ),
    "prefix": st.from_regex(r"\A[a-z0-9 主站]{1,8}(/[a-z\"\\]{1,8}){0,3}\Z"),
}
PRINTABLE = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=64)
PATTERNS = st.lists(st.from_regex(r"\A[0-9]{1,12}\*?\Z"), max_size=4).map(tuple)


def leaf(name: str, kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Valid values of a field, from its definition."""
    if isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    match kind:
        case msgspec.inspect.IntType():
            return st.integers(kind.ge, kind.le)
        case msgspec.inspect.FloatType():
            return st.floats(kind.ge, kind.le)
        case msgspec.inspect.LiteralType():
            return st.sampled_from(kind.values)
        case msgspec.inspect.VarTupleType():
            return PATTERNS
        case _:
            assert isinstance(kind, msgspec.inspect.StrType)
            return TEXTS.get(name, PRINTABLE)


def section(cls: type[Any]) -> st.SearchStrategy[Any]:
    described = msgspec.inspect.type_info(cls)
    assert isinstance(described, msgspec.inspect.StructType)
    return st.builds(cls, **{field.name: leaf(field.name, field.type) for field in described.fields})


def consistent(loaded: Settings) -> Settings:
    """The same with the pairs of values in the order that they must have."""
    low, high = sorted((loaded.mqtt.reconnect_min_s, loaded.mqtt.reconnect_max_s))
    suspect, offline = sorted((loaded.protocol.suspect_after_heartbeats, loaded.protocol.offline_after_heartbeats))
    if suspect == offline:
        suspect, offline = 1.0, 2.0
    frame, apdu = sorted((loaded.protocol.max_frame_octets, loaded.protocol.max_apdu_octets))
    frame = min(frame, 16_385)
    queue, disk = sorted((loaded.journal.queue_bytes, loaded.journal.max_bytes))
    return msgspec.structs.replace(
        loaded,
        mqtt=msgspec.structs.replace(loaded.mqtt, reconnect_min_s=low, reconnect_max_s=high),
        protocol=msgspec.structs.replace(
            loaded.protocol,
            suspect_after_heartbeats=suspect,
            offline_after_heartbeats=offline,
            max_frame_octets=frame,
            max_apdu_octets=apdu,
        ),
        journal=msgspec.structs.replace(loaded.journal, queue_bytes=min(queue, 1 << 36), max_bytes=disk),
    )


CHANNELS = st.lists(
    section(Channel),
    min_size=1,
    max_size=3,
    unique_by=(lambda channel: channel.name, lambda channel: channel.listen),
).map(tuple)
SETTINGS = st.builds(
    Settings,
    node=section(Node),
    channels=CHANNELS,
    terminals=section(Terminals),
    protocol=section(Protocol),
    mqtt=section(Mqtt),
    journal=section(JournalFile),
    http=section(Http),
    log=section(Log),
).map(consistent)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(wanted=SETTINGS)
def test_what_is_written_is_read_back(tmp_path: Path, wanted: Settings):
    assert load(write(tmp_path, commented_toml(wanted))) == wanted


# -- errors ---------------------------------------------------------------------------------------------------


def test_unknown_key_names_the_nearest(tmp_path: Path):
    assert errors(tmp_path, "[mqtt]\nwindwo = 5\n") == [
        "gateway.toml: [mqtt] unknown key 'windwo'; nearest known key: 'window'"
    ]


def test_unknown_key_of_a_channel_says_which(tmp_path: Path):
    assert errors(tmp_path, '[[channels]]\n[[channels]]\nname="b"\nlisten="0.0.0.0:1"\nlogin_timout_s=1\n') == [
        "gateway.toml: [[channels]] 2 unknown key 'login_timout_s'; nearest known key: 'login_timeout_s'"
    ]


def test_unknown_section_names_the_nearest(tmp_path: Path):
    assert errors(tmp_path, "[mqqt]\n") == ["gateway.toml: unknown section [mqqt]; nearest known section: [mqtt]"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[mqtt]\nwindow = 0", "[mqtt] window = 0: expected a whole number, 1 to 65_535"),
        ("[mqtt]\nwindow = 65536", "[mqtt] window = 65_536: expected a whole number, 1 to 65_535"),
        ('[mqtt]\nwindow = "9"', '[mqtt] window = "9": expected a whole number, 1 to 65_535'),
        ("[mqtt]\nwindow = true", "[mqtt] window = true: expected a whole number, 1 to 65_535"),
        ("[mqtt]\nversion = 3", "[mqtt] version = 3: expected 5 or 4"),
        ('[mqtt]\nformat = "xml"', '[mqtt] format = "xml": expected "msgpack" or "json"'),
        ("[mqtt]\nreconnect_min_s = nan", "[mqtt] reconnect_min_s = nan: expected a number, 0.01 to 3600"),
        ("[mqtt]\nreconnect_max_s = inf", "[mqtt] reconnect_max_s = inf: expected a number, 0.01 to 3600"),
        (
            '[mqtt]\nprefix = "a/#"',
            f'[mqtt] prefix = "a/#": {TOPIC}',
        ),
        (
            '[mqtt]\nurl = "http://h"',
            '[mqtt] url = "http://h": expected "mqtt://[USER:PASSWORD@]HOST[:PORT]", or mqtts:// for TLS',
        ),
        (
            '[mqtt]\nurl = "mqtt://h:99999"',
            '[mqtt] url = "mqtt://h:99999": expected "mqtt://[USER:PASSWORD@]HOST[:PORT]", or mqtts:// for TLS',
        ),
        (
            '[node]\nid = "a/b"',
            '[node] id = "a/b": expected 1 to 64 letters, digits, . _ -, the first a letter or digit',
        ),
        (
            '[node]\nid = "a\\n"',
            '[node] id = "a\\u000A": expected 1 to 64 letters, digits, . _ -, the first a letter or digit',
        ),
        (
            '[[channels]]\nlisten = "4000"',
            '[[channels]] 1 listen = "4000": expected "HOST:PORT", such as "0.0.0.0:4000" or "[::]:4000"',
        ),
        ('[[channels]]\nkind = "udp"', '[[channels]] 1 kind = "udp": expected "tcp_server"'),
        (
            "[[channels]]\nclient_address = 256",
            "[[channels]] 1 client_address = 256: expected a whole number, 0x00 to 0xFF",
        ),
        (
            '[[channels]]\ntime_zone = "Asia/Shangai"',
            '[[channels]] 1 time_zone = "Asia/Shangai": expected a time zone, such as "Asia/Shanghai" or "+08:00"',
        ),
        ("[channels]\nname = 'a'", 'channels = { name = "a" }: expected tables, [[channels]]'),
        ("channels = [1]", "[[channels]] 1 = 1: expected a table"),
        ("channels = []", "channels = []: at least one channel is needed"),
        ("mqtt = 5", "[mqtt] = 5: expected a table"),
        (
            '[terminals]\nallow = ["11*2"]',
            f'[terminals] allow = ["11*2"]: {ADDRESSES}',
        ),
        (
            '[terminals]\nallow = "1122*"',
            f'[terminals] allow = "1122*": {ADDRESSES}',
        ),
        (
            "[protocol]\nsuspect_after_heartbeats = 2.5",
            "[protocol] suspect_after_heartbeats = 2.5: expected less than offline_after_heartbeats",
        ),
        ("[protocol]\nmax_apdu_octets = 100", "[protocol] max_apdu_octets = 100: expected at least max_frame_octets"),
        ("[mqtt]\nreconnect_min_s = 20", "[mqtt] reconnect_min_s = 20.0: expected at most reconnect_max_s"),
        ('[mqtt]\nurl = "mqtts://h"\ntls_cert = "c"', '[mqtt] tls_cert = "c": expected together with tls_key'),
        ('[mqtt]\ntls_ca = "c"', '[mqtt] tls_ca = "c": expected "" unless mqtt.url begins with mqtts://'),
        ("[journal]\nmax_bytes = 2_000_000", "[journal] queue_bytes = 67_108_864: expected at most max_bytes"),
        (
            '[[channels]]\n[[channels]]\nlisten = "h:1"',
            '[[channels]] 2 name = "tcp": expected a name that no other channel has',
        ),
        (
            '[[polls]]\npoints = ["voltage", "power_active"]',
            f'[polls] 1 points = ["power_active"]: {POINTS}',
        ),
        (
            '[[collection]]\ncolumns = ["oad:2000020"]',
            f'[collection] 1 columns = ["oad:2000020"]: {POINTS}',
        ),
        (
            '[[channels]]\n[[channels]]\nname = "b"',
            '[[channels]] 2 listen = "0.0.0.0:4000": expected an address that no other channel listens on',
        ),
    ],
)
def test_wrong_value_names_key_value_and_what_was_expected(tmp_path: Path, text: str, line: str):
    assert errors(tmp_path, text) == [f"gateway.toml: {line}"]


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path):
    lines = errors(tmp_path, "[mqtt]\nwindow = 0\nurll = 1\n[log]\nlevel = 'all'\n", {"journal.keep_s": -1})
    assert lines == [
        "gateway.toml: [mqtt] unknown key 'urll'; nearest known key: 'url'",
        "gateway.toml: [mqtt] window = 0: expected a whole number, 1 to 65_535",
        "command line: [journal] keep_s = -1: expected a number, 0 to 31_622_400",
        'gateway.toml: [log] level = "all": expected "debug", "info", "warning", "error" or "critical"',
    ]


@pytest.mark.parametrize("password", ["hunter2", "hunter2/x", 'hun"ter2', "hun ter2", "hun@ter2"])
def test_no_error_shows_the_password_of_the_broker(tmp_path: Path, password: str):
    for url in (f"mqtt://user:{password}@host/path", f"http://user:{password}@host"):
        (line,) = errors(tmp_path, "", {"mqtt.url": url})
        assert line.startswith("command line: [mqtt] url = ")
        assert "ter2" not in line


def test_long_values_are_cut(tmp_path: Path):
    (line,) = errors(tmp_path, f'[log]\nlevel = "{"x" * 5_000}"\n')
    assert len(line) < 250


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"[mqtt\n", "not TOML: Expected ']' at the end of a table declaration (at line 1, column 6)"),
        (b"a = '\xff'", "not UTF-8 at octet 5"),
        (b"#" * ((1 << 20) + 1), "longer than 1048576 octets"),
        (b"a = " + b"[" * 100_000, "not TOML: nested too deeply"),
    ],
    ids=["syntax", "encoding", "length", "depth"],
)
def test_file_that_is_no_settings_file(tmp_path: Path, octets: bytes, why: str):
    path = tmp_path / "gateway.toml"
    path.write_bytes(octets)
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {why}"


def test_missing_file(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "none.toml")


# -- the command line -----------------------------------------------------------------------------------------


def test_overrides_win_over_the_file_and_none_is_not_given(tmp_path: Path):
    path = write(
        tmp_path, '[mqtt]\nwindow = 7\nprefix = "x"\n[[channels]]\nname="a"\n[[channels]]\nname="b"\nlisten="h:1"'
    )
    loaded = load(
        path,
        {"mqtt.window": 8, "mqtt.prefix": None, "node.id": "n", "channels.0.listen": "h:2", "channels.b.backlog": 9},
    )
    assert (loaded.mqtt.window, loaded.mqtt.prefix, loaded.node.id) == (8, "x", "n")
    assert [(channel.name, channel.listen, channel.backlog) for channel in loaded.channels] == [
        ("a", "h:2", 4_096),
        ("b", "h:1", 9),
    ]


def test_overrides_of_the_default_channel():
    assert load(None, {"channels.0.listen": "127.0.0.1:0"}).channels == (Channel(listen="127.0.0.1:0"),)
    assert load(None, {"channels.tcp.backlog": 5}).channels == (Channel(backlog=5),)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("mqtt.urll", "x", "[mqtt] unknown key 'urll'; nearest known key: 'url'"),
        ("mqqt.url", "x", "unknown section [mqqt]; nearest known section: [mqtt]"),
        ("mqtt", "x", "mqtt: expected SECTION.KEY or channels.NAME.KEY"),
        ("channels.listen", "x", "channels.listen: expected SECTION.KEY or channels.NAME.KEY"),
        ("channels.3.listen", "h:1", "channels.3.listen: no such channel; there are tcp"),
        ("channels.udp.listen", "h:1", "channels.udp.listen: no such channel; there are tcp"),
        ("mqtt.window", "8", '[mqtt] window = "8": expected a whole number, 1 to 65_535'),
        ("http.listen", "nowhere", '[http] listen = "nowhere": expected "HOST:PORT", or "" for off'),
    ],
)
def test_wrong_override_is_blamed_on_the_command_line(tmp_path: Path, key: str, value: object, line: str):
    assert errors(tmp_path, "", {key: value}) == [f"command line: {line}"]


# -- values with a meaning ------------------------------------------------------------------------------------


def test_split_listen():
    assert split_listen("0.0.0.0:4000") == ("0.0.0.0", 4_000)
    assert split_listen("[fe80::1%eth0]:0") == ("fe80::1%eth0", 0)
    for wrong in ("", "4000", ":4000", "h:", "h:65536", "::1:4000", "h:1\n", "h:-1"):
        with pytest.raises(ValueError, match="not HOST:PORT"):
            split_listen(wrong)


def test_time_zone():
    noon = datetime(2024, 7, 1, 12)  # noqa: DTZ001 - the zone under test gives the offset
    assert time_zone("Asia/Shanghai").utcoffset(noon) == timedelta(hours=8)
    assert time_zone("+08:00").utcoffset(noon) == timedelta(hours=8)
    assert time_zone("-03:30").utcoffset(noon) == timedelta(hours=-3, minutes=-30)
    for wrong in ("", "Asia", "+15:00", "../etc/passwd", "8"):
        with pytest.raises(ValueError, match=r"not a known time zone|at most 14 hours"):
            time_zone(wrong)


def test_time_zone_of_china_needs_no_database(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr("gateway.settings_checks.ZoneInfo", absent)
    assert time_zone("Asia/Shanghai").utcoffset(None) == timedelta(hours=8)
    with pytest.raises(ValueError, match="not a known time zone"):
        time_zone("Asia/Urumqi")


def test_pattern_filter():
    allowed = pattern_filter(("112233445566", "99*"))
    assert [allowed(terminal) for terminal in ("112233445566", "11223344556", "990", "99", "9")] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert not pattern_filter(())("1")
    assert pattern_filter(("*",))("1")


def test_derived_values():
    assert Settings().journal_path == Path("data/journal.db")
    assert Settings(journal=JournalFile(file="/j/x.db")).journal_path == Path("/j/x.db")
    assert Settings(node=Node(id="n")).mqtt_client_id == "loadgate-n"
    assert Settings(mqtt=Mqtt(client_id="c")).mqtt_client_id == "c"


# -- the other files of config/ -------------------------------------------------------------------------------


async def test_mosquitto_conf_starts_a_broker_that_takes_our_window(tmp_path: Path):
    """The file as it stands, but for port and directory: it starts, and QoS 1 goes through it."""
    broker = Mosquitto(tmp_path)
    text = (CONFIG / "mosquitto.conf").read_text(encoding="utf-8")
    assert text.count("listener 1883 127.0.0.1\n") == text.count("/var/lib/mosquitto/\n") == 1
    text = text.replace("listener 1883 ", f"listener {broker.port} ")
    text = text.replace("persistence_location /var/lib/mosquitto/", f"persistence_location {tmp_path}/")
    broker._config.write_text(f"user root\n{text}")
    broker.start()
    try:
        async with broker.collect() as collected:
            async with aiomqtt.Client(broker.host, broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
                await client.publish("loadgate/v1/x", b"1", qos=1)
            await collected.count(1)
        assert collected.payloads == [b"1"]
    finally:
        broker.stop()


def test_only_loopback_is_open_to_anonymous_clients():
    text = (CONFIG / "mosquitto.conf").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if line.startswith("listener")] == ["listener 1883 127.0.0.1"]
    assert {"per_listener_settings true", "set_tcp_nodelay true", "persistence true"} <= set(lines)
    assert "# listener 8883\n# allow_anonymous false\n" in text


def test_unit_gives_the_gateway_the_time_and_the_files_that_the_defaults_need():
    lines = (CONFIG / "loadgate.service").read_text(encoding="utf-8").splitlines()
    unit = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert float(unit["TimeoutStopSec"]) > 2 * Settings().mqtt.drain_timeout_s
    assert int(unit["LimitNOFILE"]) > 2 * Settings().channels[0].max_connections
    assert unit["KillSignal"] == "SIGTERM"
