"""Parse the values of options. Each parser raises ValueError with a message for people."""

import re
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from att.config.settings import ListenAddress, Rate
from att.core.client_address import Proxy

DURATION_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
SIZE_UNITS = {"b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
DEFAULT_PORTS = {"http": "80", "https": "443"}
MAX_PORT = 65_535
_ORIGIN_SCHEMES = "https?|capacitor|ionic|tauri"  # of browsers, and of the web views of apps
REDIS_SCHEMES = ("redis", "rediss", "unix")
_COUNT, _SECONDS, _TEXT, _FLAG = r"[0-9]{1,5}", r"[0-9]{1,3}(?:\.[0-9]{1,3})?", r".+", "(?i:yes|no|true|false|1|0)"
REDIS_QUERY = {  # parameters of a Redis URL with the form of their values; ssl_… only with rediss://
    "db": _COUNT,
    "username": _TEXT,
    "password": _TEXT,
    "client_name": _TEXT,
    "health_check_interval": _COUNT,
    "max_connections": _COUNT,
    "socket_connect_timeout": _SECONDS,
    "socket_keepalive": _FLAG,
    "socket_timeout": _SECONDS,
    "ssl_ca_certs": _TEXT,
    "ssl_ca_path": _TEXT,
    "ssl_cert_reqs": "none|optional|required",
    "ssl_certfile": _TEXT,
    "ssl_check_hostname": _FLAG,
    "ssl_ciphers": _TEXT,
    "ssl_keyfile": _TEXT,
    "ssl_password": _TEXT,
}
Value = TypeVar("Value")
MAX_DURATION = timedelta(days=3650)
MAX_DRAIN_TIME = timedelta(hours=1)
MIN_MEMORY_BUDGET = 16 * 1024**2  # some of the largest bodies
MIN_RETENTION_AGE = timedelta(minutes=1)  # by then every server has read a new event


def read_secret(path: str) -> str:
    """Return what a file holds, without a line break at its end. Raise ValueError that says what is wrong."""
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no text in UTF-8") from error


def parse_listen(text: str) -> ListenAddress:
    """Read ``host:port``, ``[ipv6]:port``, ``:port`` or ``unix:/path``. Raise ValueError that says what is wrong."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ValueError("give a path after 'unix:', as in unix:/run/att.sock")
        return ListenAddress(host=None, port=0, path=path)
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} has no port; write host:port, :port, [ipv6]:port or unix:/path")
    if re.fullmatch(r"\[[0-9A-Fa-f:.%a-z]+\]", host):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:8000")
    elif not re.fullmatch(r"[\w.-]*", host):
        raise ValueError(f"{host!r} is no host; write host:port, :port, [ipv6]:port or unix:/path")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > MAX_PORT:
        raise ValueError(f"{port!r} is no port; a port is a number from 0 to {MAX_PORT}")
    return ListenAddress(host=host or None, port=int(port))


def parse_duration(text: str) -> timedelta:
    """Read a number with a unit: ``90s``, ``15m``, ``12h``, ``30d``. Raise ValueError that says what is wrong."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if not match:
        raise ValueError(f"{text!r} is no duration; write a number and a unit: 90s, 15m, 12h or 30d")
    duration = timedelta(**{DURATION_UNITS[match[2]]: int(match[1])})
    if not timedelta(0) < duration <= MAX_DURATION:
        raise ValueError(f"{text!r} is out of range; from 1s to {MAX_DURATION.days}d")
    return duration


def parse_retention_age(text: str) -> timedelta:
    """Read a duration of a minute at least. Raise ValueError that says what is wrong."""
    duration = parse_duration(text)
    if duration < MIN_RETENTION_AGE:
        raise ValueError(f"{text!r} is too short; a minute at least, as in 1m, 12h or 30d")
    return duration


def parse_drain_time(text: str) -> timedelta:
    """Read ``0s``, or a duration of an hour at most. Raise ValueError that says what is wrong."""
    duration = timedelta(0) if text == "0s" else parse_duration(text)
    if duration > MAX_DRAIN_TIME:
        raise ValueError(f"{text!r} is too long; an hour at most, as in 1h, 20s or 0s")
    return duration


def parse_redis_url(text: str) -> str:
    """Return the URL of a Redis unchanged. Raise ValueError that says what is wrong without showing the URL."""
    form = "write redis://user:password@host:port/0, rediss://host:port/0 or unix:///path/of/socket"
    try:
        url = urlsplit(text)
        url.port  # noqa: B018 - reading it raises when it is no number
    except ValueError:
        raise ValueError(f"the URL is not understood; {form}") from None
    place = url.path if url.scheme == "unix" else url.hostname
    has_database = url.scheme == "unix" or re.fullmatch(r"/?|/[0-9]{1,5}", url.path)
    if url.scheme not in REDIS_SCHEMES or not place or not has_database:
        raise ValueError(f"the URL is not understood; {form}")
    _check_redis_query(url.query, is_tls=url.scheme == "rediss")
    return text


def _check_redis_query(query: str, *, is_tls: bool) -> None:
    """Raise ValueError that names the wrong parameter, without its value: it may be a password."""
    if "@" in query:
        raise ValueError("in the user and the password percent-encode '?' as %3F and '@' as %40")
    for name, value in parse_qsl(query, keep_blank_values=True):
        form = REDIS_QUERY.get(name)
        if form is None:
            raise ValueError(f"the parameter {name!r} is not known; known are {', '.join(REDIS_QUERY)}")
        if name.startswith("ssl_") and not is_tls:
            raise ValueError(f"the parameter {name!r} is for rediss://")
        if not re.fullmatch(form, value):
            raise ValueError(f"the value of the parameter {name!r} is not understood")


def parse_count(text: str) -> int:
    """Read a number of at least one. Raise ValueError that says what is wrong."""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise ValueError(f"{text!r} is no number from 1 to 999999999")
    return int(text)


def parse_size(text: str) -> int:
    """Read a number of bytes: ``65536``, ``64KiB``, ``1MiB``. Raise ValueError that says what is wrong."""
    match = re.fullmatch(r"([0-9]{1,12})(?: ?([kmg]ib|b))?", text.lower())
    if not match or int(match[1]) == 0:
        raise ValueError(f"{text!r} is no size; write a number of bytes: 65536, 64KiB or 1MiB")
    return int(match[1]) * SIZE_UNITS[match[2] or "b"]


def parse_memory_budget(text: str) -> int:
    """Read a size of 16 MiB at least. Raise ValueError that says what is wrong."""
    size = parse_size(text)
    if size < MIN_MEMORY_BUDGET:
        raise ValueError(f"{text!r} is too small; 16MiB at least, as in 128MiB or 1GiB")
    return size


def parse_unlimited(parse: Callable[[str], Value]) -> Callable[[str], Value | None]:
    """Return a parser that also reads the word ``unlimited``, as None."""

    def parse_quota(text: str) -> Value | None:
        if text.lower() == "unlimited":
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or the word unlimited") from error

    return parse_quota


def parse_path(text: str) -> Path:
    """Read the path of a directory, which may begin with ``~``. Raise ValueError that says what is wrong."""
    if not text:
        raise ValueError("give the path of a directory")
    try:
        return Path(text).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{text!r} is not a usable path: {error}") from error


def parse_directory(text: str) -> Path:
    """Read the path of a directory that exists. Raise ValueError that says what is wrong."""
    path = parse_path(text)
    if not path.is_dir():
        raise ValueError(f"{str(path)!r} is not a directory; make it, or give the path of another one")
    return path


def parse_path_prefix(text: str) -> str:
    """Return a path without a slash at its end, "" for the root. Raise ValueError that says what is wrong."""
    prefix = text.removesuffix("/")
    if not text or not re.fullmatch(r"(/[A-Za-z0-9._~%-]+)*", prefix):
        raise ValueError(f"{text!r} is no path prefix; write it as in a URL, with a slash before it: /api")
    return prefix


def parse_origin(text: str) -> str:
    """Read an origin (RFC 6454) as a browser or a web view sends it. Raise ValueError that says what is wrong."""
    form = rf"({_ORIGIN_SCHEMES})://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{{0,4}}))?"
    match = re.fullmatch(form, text.lower())
    if not match or int(match[3] or 0) > MAX_PORT:
        raise ValueError(f"{text!r} is no origin; write scheme://host or scheme://host:port, as in https://app.example")
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" if port in (None, DEFAULT_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"


def parse_rate(text: str) -> Rate:
    """Read a number per duration: ``5/5m``, ``30/1h``. Raise ValueError that says what is wrong."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]+[a-z])", text)
    if not match or int(match[1]) == 0:
        raise ValueError(f"{text!r} is no rate; write a number, a slash and a duration: 5/5m, 50/90s or 30/1h")
    return Rate(int(match[1]), parse_duration(match[2]))


def parse_proxy(text: str) -> Proxy:
    """Read an IP address, a network, or ``unix``. Raise ValueError that says what is wrong."""
    if text == "unix":
        return "unix"
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no network: {error}; write 10.0.0.0/8, 2001:db8::/32, 127.0.0.1 or unix"
        ) from None
