"""The settings, and the parsers that read them from text."""

import os
import re
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from att.config.parsers import (
    parse_count,
    parse_duration,
    parse_listen,
    parse_origin,
    parse_path_prefix,
    parse_proxy,
    parse_rate,
    parse_redis_url,
    parse_retention_age,
    parse_size,
    parse_unlimited,
)
from att.config.settings import OWASP, HashingCost, ListenAddress, Rate, Settings, default_data_dir

# A host that is called "unix" cannot be told from a path.
HOST_NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "unix")
ADDRESSES = {
    "localhost:8000": ListenAddress("localhost", 8000),
    "127.0.0.1:8000": ListenAddress("127.0.0.1", 8000),
    "0.0.0.0:8080": ListenAddress("0.0.0.0", 8080),
    "[::1]:8000": ListenAddress("::1", 8000),
    "[::]:80": ListenAddress("::", 80),
    ":8000": ListenAddress(None, 8000),
    "localhost:0": ListenAddress("localhost", 0),
    ":65535": ListenAddress(None, 65535),
    "unix:/run/att.sock": ListenAddress(None, 0, "/run/att.sock"),
    "unix:att.sock": ListenAddress(None, 0, "att.sock"),
    "unix:/run/a:b": ListenAddress(None, 0, "/run/a:b"),
}


@pytest.mark.parametrize(("text", "address"), ADDRESSES.items())
def test_listen(text, address):
    """Each form of --listen is read, and written back as it was."""
    assert parse_listen(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no port"),
        ("localhost", "has no port"),
        ("8000", "has no port"),
        ("/run/att.sock", "has no port"),
        ("localhost:", "is no port"),
        ("localhost:http", "is no port"),
        ("localhost:65536", "is no port"),
        ("localhost:-1", "is no port"),
        ("localhost:+1", "is no port"),
        ("localhost: 80", "is no port"),
        ("localhost:80\n", "is no port"),
        ("localhost:\u0663", "is no port"),
        ("localhost:\u00b2", "is no port"),
        ("localhost:99999999999999999999", "is no port"),
        ("::1:80", "in brackets"),
        ("::", "in brackets"),
        ("[::1]", "in brackets"),
        ("[::1:80", "in brackets"),
        ("::1]:80", "in brackets"),
        ("unix:", "give a path"),
        ("[]:80", "is no host"),
        ("a b:80", "is no host"),
        ("me@host:80", "is no host"),
        ("/run/x:80", "is no host"),
        ("localhost:" + "9" * 5_000, "is no port"),
    ],
)
def test_no_listen(text, complaint):
    """What is not an address is refused, with what to write instead."""
    with pytest.raises(ValueError, match=complaint):
        parse_listen(text)


@given(
    st.one_of(st.none(), st.ip_addresses().map(str), HOST_NAMES),
    st.integers(0, 65535),
)
def test_listen_round_trip(host, port):
    """Whatever an address is, its text is read as that address."""
    assert parse_listen(str(ListenAddress(host, port))) == ListenAddress(host, port)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("1s", timedelta(seconds=1)),
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("007s", timedelta(seconds=7)),
        ("3650d", timedelta(days=3650)),
    ],
)
def test_duration(text, duration):
    """A number and a unit."""
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    ("text", "complaint"),
    [(text, "is no duration") for text in ("", "s", "90", "-1s", "+1s", "1.5h", "1 d", "1D", "1w", "1s\n", "1h30m")]
    + [(text, "is no duration") for text in ("\u0661s", "1" * 10 + "s")]
    + [(text, "is out of range") for text in ("0s", "0d", "3651d", "87601h", "999999999d")],
)
def test_no_duration(text, complaint):
    """Anything else is refused, by its form or by its range."""
    with pytest.raises(ValueError, match=complaint):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("65536", 65536),
        ("65536B", 65536),
        ("64KiB", 65536),
        ("64kib", 65536),
        ("64 KiB", 65536),
        ("1MiB", 1024**2),
        ("2GIB", 2 * 1024**3),
    ],
)
def test_size(text, size):
    """A number of bytes, or of a binary multiple of them."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "0", "0MiB", "KiB", "-1", "1.5MiB", "1MB", "1k", "1M", "1TiB", "64  KiB", " 1", "1\n", "\u0661", "1" * 13],
)
def test_no_size(text):
    """Anything else is refused; decimal multiples, too, which might be meant as either."""
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


def test_retention_age():
    """A minute is the least."""
    assert [parse_retention_age(text) for text in ("1m", "60s", "30d")] == [
        timedelta(minutes=1),
        timedelta(minutes=1),
        timedelta(days=30),
    ]
    for text in ("1s", "59s"):
        with pytest.raises(ValueError, match="a minute at least"):
            parse_retention_age(text)
    with pytest.raises(ValueError, match="is no duration"):
        parse_retention_age("nonsense")


def test_count():
    """A number of at least one."""
    assert [parse_count(text) for text in ("1", "100000", "999999999")] == [1, 100_000, 999_999_999]


@pytest.mark.parametrize("text", ["", "0", "-1", "01", "x", "1.5", "1k", " 1", "1\n", "\u0661", "1" * 10])
def test_no_count(text):
    """Anything else is refused."""
    with pytest.raises(ValueError, match="is no number from 1 to 999999999"):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example", "https://app.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("https://app.example:80", "https://app.example:80"),
        ("http://app.example:443", "http://app.example:443"),
        ("https://app.example:8443", "https://app.example:8443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://[::1]:443", "https://[::1]"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("tauri://localhost", "tauri://localhost"),
    ],
)
def test_origin(text, origin):
    """An origin is read into the form in which browsers send it."""
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "null",
        "app.example",
        "//app.example",
        "https:app.example",
        "https://",
        "https://:443",
        "ftp://app.example",
        "wss://app.example",
        "capacitor://",
        "file:///etc/passwd",
        "https://app.example/",
        "https://app.example/path",
        "https://app.example?q",
        "https://app.example#f",
        "https://user@app.example",
        "https://user:secret@app.example",
        "https://@app.example",
        "https://app.example:0",
        "https://app.example:65536",
        "https://app.example:-1",
        "https://app.example:x",
        "https://app.example:\u0663",
        "https://[::1",
        "https://a.example,https://b.example",
        "https://app.example:",
        "https://app.example:0443",
        "https://*.example",
        "https://a b",
        "https://app.example ",
        "https://a\\b",
        "https://b\u00fccher.example",
        "https://app.example?",
        "https://app.example#",
    ],
)
def test_no_origin(text):
    """What no browser would send as an origin is refused."""
    with pytest.raises(ValueError, match="is no origin"):
        parse_origin(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5/5m", Rate(5, timedelta(minutes=5))),
        ("30/1h", Rate(30, timedelta(hours=1))),
        ("1/1s", Rate(1, timedelta(seconds=1))),
        ("999999999/3650d", Rate(999_999_999, timedelta(days=3650))),
    ],
)
def test_rate(text, rate):
    """A number, a slash and a duration."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        *((text, "is no rate") for text in ("", "5", "5m", "/5m", "5/", "5/5", "0/5m", "-5/5m", "5 / 5m", "5/5m/5m")),
        *((text, "is no rate") for text in ("5/5m\n", "1.5/5m", "\u0665/5m", "5/\u0665m", "1" * 10 + "/5m", "off")),
        ("5/5w", "is no duration"),
        ("5/0s", "out of range"),
        ("5/9999999d", "out of range"),
        ("5/" + "9" * 5_000 + "s", "is no duration"),
    ],
)
def test_no_rate(text, complaint):
    """Anything else is refused, with what to write instead."""
    with pytest.raises(ValueError, match=complaint):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("unix", "unix"),
        ("10.0.0.0/8", ip_network("10.0.0.0/8")),
        ("127.0.0.1", ip_network("127.0.0.1/32")),
        ("::1", ip_network("::1/128")),
        ("2001:DB8::/32", ip_network("2001:db8::/32")),
        ("0.0.0.0/0", ip_network("0.0.0.0/0")),
    ],
)
def test_proxy(text, proxy):
    """An address, a network, or our unix socket."""
    assert parse_proxy(text) == proxy


@pytest.mark.parametrize(
    "text", ["", "*", "Unix", "unix:/run/att.sock", "localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "1", " ::1"]
)
def test_no_proxy(text):
    """Anything else is refused, a network that is written with somebody's address in it as well."""
    with pytest.raises(ValueError, match="is no network"):
        parse_proxy(text)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost/",
        "redis://att:p%40ss@[::1]:7000/15",
        "rediss://:secret@db.example/0?ssl_ca_certs=/etc/ca.pem",
        "unix:///run/redis.sock?db=3",
    ],
)
def test_redis_url(url):
    """It is left as it is."""
    assert parse_redis_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis:///0",
        "unix://",
        "redis://u:hush@host:port/0",
        "redis://u:hush@host:99999",
        "redis://u:hush/hush@host:6379/0",
        "redis://u:hush@host/hush",
        "redis://u:hush@host/0/1",
        "redis://u:hush@host/-1",
        "redis://u:hush@[::1/0",
    ],
)
def test_no_redis_url(url):
    """What is wrong is told without what may be the password."""
    with pytest.raises(ValueError, match=r"^the URL is not understood; write redis://user:password@host") as caught:
        parse_redis_url(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://host/?nope=hush", "the parameter 'nope' is not known; known are db, username, "),
        ("redis://host/0?db=1&nope", "the parameter 'nope' is not known"),
        ("redis://host/0?db=hush", "the value of the parameter 'db' is not understood"),
        ("rediss://host/0?ssl_cert_reqs=hush", "the value of the parameter 'ssl_cert_reqs'"),
        ("redis://host/0?socket_timeout=", "the value of the parameter 'socket_timeout'"),
        ("redis://host/0?ssl_ca_certs=/x", "the parameter 'ssl_ca_certs' is for rediss://"),
        ("redis://user:123?hush&hush@host/0", "percent-encode '?' as %3F"),
    ],
)
def test_no_query_of_a_redis_url(url, says):
    """A wrong parameter is named, its value is never shown."""
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        parse_redis_url(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "prefix"), [("/", ""), ("/api", "/api"), ("/api/", "/api"), ("/a-b/c.d_e~%20", "/a-b/c.d_e~%20")]
)
def test_path_prefix(text, prefix):
    """A prefix has no slash at its end; that of the root is empty."""
    assert parse_path_prefix(text) == prefix


@pytest.mark.parametrize(
    "text", ["", "api", "//api", "/api//", "/a b", "/api?q", "/api#f", "/api;Path=/", "https://x", "/a\n"]
)
def test_no_path_prefix(text):
    """What is no path, or would be another host's, is refused."""
    with pytest.raises(ValueError, match="is no path prefix"):
        parse_path_prefix(text)


@pytest.mark.parametrize(
    ("one", "other", "is_so"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000", True),
        (":8000", "127.0.0.1:8000", True),
        ("[::1]:8000", ":8000", True),
        ("[::]:8000", "127.0.0.1:8000", True),
        ("[::]:8000", "unix:/run/t", False),
        ("unix:/run/s", "unix:/run/s", True),
        ("127.0.0.1:8000", "127.0.0.1:8001", False),
        ("127.0.0.1:8000", "127.0.0.2:8000", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/run/s", "unix:/run/t", False),
        (":8000", "unix:/run/t", False),
    ],
)
def test_addresses_that_meet(one, other, is_so):
    assert parse_listen(one).conflicts_with(parse_listen(other)) is is_so
    assert parse_listen(other).conflicts_with(parse_listen(one)) is is_so


def test_settings_are_frozen():
    """Nothing changes the settings of a running server; a changed copy is a new value."""
    settings = Settings()
    with pytest.raises(FrozenInstanceError):
        settings.migrate = True
    assert replace(settings, migrate=True) != settings
    assert settings == Settings()
    assert hash(settings) == hash(Settings())


def test_settings_hide_the_password():
    """The DSN, which may contain a password, is in no text of the settings."""
    settings = Settings(db_url="postgresql://att:hunter2@db/att")
    assert "hunter2" not in f"{settings} {settings!r}"
    assert settings.db_url == "postgresql://att:hunter2@db/att"


def test_defaults():
    """Without a choice: this machine only, embedded database, no foreign origin, no proxy, hashing as OWASP advises."""
    settings = Settings()
    assert str(settings.listen) == "127.0.0.1:8000"
    assert settings.db_url is None
    assert settings.migrate is False
    assert settings.allow_origin == frozenset()
    assert settings.login_failures == Rate(5, timedelta(minutes=5))
    assert settings.address_failures == Rate(50, timedelta(minutes=5))
    assert settings.signups == Rate(30, timedelta(hours=1))
    assert settings.trust_proxy == frozenset()
    assert settings.hashing == OWASP == HashingCost(time_cost=2, memory_kib=19_456, parallelism=1)


def test_data_dir_of_root(monkeypatch):
    """Root's data are not in root's home, which PostgreSQL's own user cannot enter."""
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    assert default_data_dir() == Path("/var/lib/att")
    assert Settings().data_dir == Path("/var/lib/att")


def test_data_dir_of_others(monkeypatch):
    """Anybody else's are where XDG has users' data, on macOS too: a path with a space would not do."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/ann")
    assert default_data_dir() == Path("/home/ann/.local/share/att")
    assert default_data_dir().name == "att"
    assert Settings().data_dir == default_data_dir()


def test_unlimited():
    """A quota is what its parser reads, or none."""
    parse = parse_unlimited(parse_count)
    assert (parse("7"), parse("unlimited"), parse("Unlimited")) == (7, None, None)
    for text in ("0", "-1", "none", ""):
        with pytest.raises(ValueError, match="no number from 1 to 999999999, or the word unlimited"):
            parse(text)
