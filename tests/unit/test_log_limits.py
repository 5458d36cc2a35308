"""What happens again and again is told once."""

import errno
import logging
import socket
import ssl

import pytest
from parts import Clock

from att.core import log_limits
from att.core.error_text import describe_error
from att.core.log_limits import OncePerInterval, OutageLog, RateLimited


@pytest.fixture
def clock():
    return Clock()


def test_an_outage_is_two_lines(caplog):
    """However often it is found to be away, and to be there; the next one is told anew."""
    caplog.set_level(logging.INFO, "att")
    outage = OutageLog("the moon")
    outage.end()
    for _ in range(2):
        for _ in range(3):
            outage.begin("clouds")
        for _ in range(3):
            outage.end()
    away, back, *again = [record.getMessage() for record in caplog.records]
    assert away == "the moon is away: clouds"
    assert back.startswith("the moon is back after ")
    assert len(again) == 2


def test_one_of_a_kind_in_a_while(clock):
    """The next one tells how many it stands for; another kind is another matter."""
    seldom = OncePerInterval(60, clock)
    assert seldom.passes("a") == 0
    assert [seldom.passes("a") for _ in range(3)] == [None] * 3
    assert seldom.passes("b") == 0
    clock.now = 60
    assert seldom.passes("a") == 3
    assert seldom.passes("a") is None
    clock.now = 180
    assert seldom.passes("b") == 0


def test_so_many_in_a_second(clock):
    """The first one of the next second tells how many were held back."""
    ration = RateLimited(2, clock)
    assert [ration.passes() for _ in range(5)] == [0, 0, None, None, None]
    clock.now = 0.9
    assert ration.passes() is None
    clock.now = 1
    assert [ration.passes() for _ in range(3)] == [4, 0, None]
    clock.now = 60
    assert [ration.passes() for _ in range(2)] == [1, 0]


def test_what_is_remembered_is_bounded(clock, monkeypatch):
    """However many kinds there are."""
    monkeypatch.setattr(log_limits, "_KINDS", 10)
    seldom = OncePerInterval(60, clock)
    for kind in range(100):
        seldom.passes(kind)
        seldom.passes(kind)
    assert len(seldom._allowed_at) <= 10
    assert len(seldom._suppressed) <= 10


def caused_by(cause):
    """An error of a library's, which says it in its own way."""
    error = RuntimeError("ssl:default [Connect call failed]")
    error.__cause__ = cause
    return error


REFUSED = "[Errno 111] Connect call failed ('127.0.0.1', 1)".replace("111", str(errno.ECONNREFUSED))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "connection refused"),
        (caused_by(OSError(errno.EHOSTUNREACH, "x")), "no route to host"),
        (caused_by(OSError(f"Multiple exceptions: {REFUSED}, {REFUSED}")), "connection refused"),
        (caused_by(TimeoutError()), "timed out"),
        (caused_by(socket.gaierror(socket.EAI_NONAME, "Name or service not known")), "name or service not known"),
        (RuntimeError("Error 111 connecting to h:1.".replace("111", str(errno.ECONNREFUSED))), "connection refused"),
        (RuntimeError("Connection closed\n by server."), "Connection closed by server"),
        (RuntimeError(), "no answer"),
    ],
)
def test_in_words(error, words):
    assert describe_error(error) == words


def test_in_words_of_the_system():
    """As they come."""
    with socket.socket() as taken, pytest.raises(ConnectionRefusedError) as refused:
        taken.bind(("127.0.0.1", 0))
        socket.create_connection(taken.getsockname())
    assert describe_error(refused.value) == "connection refused"
    said = ssl.MemoryBIO()
    said.write(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(ssl.SSLError) as no_tls:
        ssl.create_default_context().wrap_bio(said, ssl.MemoryBIO(), server_hostname="x").do_handshake()
    assert describe_error(no_tls.value) == "no TLS can be agreed on: wrong version number"
