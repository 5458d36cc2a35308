"""Descriptions of errors for log lines and operators."""

import errno
import socket
import ssl

import pytest

from att.core.error_text import describe_error


def caused_by(cause):
    """Return a library's error with this cause."""
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
def test_describe_error(error, words):
    assert describe_error(error) == words


def test_no_tls():
    """An error of TLS is described by its reason."""
    answer = ssl.MemoryBIO()
    answer.write(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(ssl.SSLError) as no_tls:
        ssl.create_default_context().wrap_bio(answer, ssl.MemoryBIO(), server_hostname="x").do_handshake()
    assert describe_error(no_tls.value) == "no TLS can be agreed on: wrong version number"
