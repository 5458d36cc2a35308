"""What is answered to a request that no handler sees."""

import json
import re

import pytest
from doorway import REQUEST, answer, ends, house

from att import heads
from att.heads import FIELD_LIMIT, FIELDS, HEAD_LIMIT, LINE_LIMIT

HEAD = b"GET / HTTP/1.1\r\nHost: att\r\n"


def field(length, name=b"X"):
    return name + b": " + b"y" * length + b"\r\n"


REFUSED = {
    "line": (b"GET /" + b"x" * LINE_LIMIT + b" HTTP/1.1\r\n\r\n", 414, "address too long"),
    "line without end": (b"GET /" + b"x" * (LINE_LIMIT + 1), 414, "address too long"),
    "field": (HEAD + field(FIELD_LIMIT + 1) + b"\r\n", 431, "headers too large"),
    "field without end": (HEAD + b"X: " + b"y" * (FIELD_LIMIT + 1), 431, "headers too large"),
    "name": (HEAD + b"x" * (FIELD_LIMIT + 1) + b": y\r\n\r\n", 431, "headers too large"),
    "fields": (
        HEAD + b"".join(field(1, b"X%d" % number) for number in range(FIELDS)) + b"\r\n",
        431,
        "headers too large",
    ),
    "head": (
        HEAD + b"".join(field(FIELD_LIMIT // 2, b"X%d" % number) for number in range(9)),
        431,
        "headers too large",
    ),
    "no HTTP": (b"hello\r\n\r\n", 400, "malformed"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed"),
    "lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed"),
    "smuggling": (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed"),
    "method": (b"BREW /tea?yyy HTTP/1.1\r\nHost: att\r\n\r\n", 501, "not implemented"),
    "method with a quote": (b"BREW' /yyy HTTP/1.1\r\nHost: att\r\n\r\n", 501, "not implemented"),
    "method in small letters": (b"get / HTTP/1.1\r\nHost: att\r\n\r\n", 501, "not implemented"),
    "method of RTSP": (b"DESCRIBE / HTTP/1.1\r\nHost: att\r\n\r\n", 501, "not implemented"),
    "part of a method": (b"BR", 400, "malformed"),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed"),
    "two Hosts": (HEAD + b"Host: att\r\n\r\n", 400, "malformed"),
    "control character": (HEAD + b"X: \x00\r\n\r\n", 400, "malformed"),
}


@pytest.mark.parametrize(("data", "status", "code"), REFUSED.values(), ids=REFUSED)
async def test_refused(data, status, code, caplog):
    """A problem as any other, with our headers; then the connection is closed. It shows nothing of what was sent, and
    nothing of it is in the log.
    """
    async with house() as here:
        reader, writer = await here.connect()
        writer.write(data)
        found, headers, body = await answer(reader)
        problem = json.loads(body)
        assert (found, problem["status"], problem["error"]) == (status, status, code), problem
        assert headers["content-type"] == "application/problem+json; charset=utf-8"
        assert headers["cache-control"] == "no-store"
        assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
        assert headers["connection"] == "close"
        assert "server" not in headers  # it would tell versions
        assert "yyy" not in str(problem)
        assert await ends(reader) == b""
        writer.close()
        await here.has(open=0)
    assert not caplog.records


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        ("BREW / HTTP/1.1", "The server knows no such method"),
        ("BREW", "This begins with none of the methods that the server knows"),
        ("GET / HTTP/1.1", "A request of HTTP/1.1 needs a Host header"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b", "A request may have no more than one Host header"),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b", "This is not HTTP/1.1"),
    ],
)
async def test_what_is_wrong_is_said(data, detail):
    async with house() as here:
        reader, writer = await here.connect()
        writer.write(f"{data}\r\n\r\n".encode())
        assert json.loads((await answer(reader))[2])["detail"].startswith(detail)
        writer.close()


async def test_what_is_allowed():
    """Up to the limits a request is served."""
    async with house() as here:
        reader, writer = await here.connect()
        line = b"GET /?" + b"x" * (LINE_LIMIT - 100) + b" HTTP/1.1\r\nHost: att\r\n"
        many = b"".join(field(100, b"X%d" % number) for number in range(FIELDS - 10))
        large = field(FIELD_LIMIT - 100)
        for head in (line, HEAD + many, HEAD + large, HEAD + large * 3, line + large + many):
            writer.write(head + b"\r\n")
            assert (await answer(reader))[0] == 200
        # Each is measured by itself.
        writer.write(REQUEST[:9])
        other, its = await here.connect()
        its.write(REQUEST)
        assert (await answer(other))[0] == 200
        writer.write(REQUEST[9:])
        assert (await answer(reader))[0] == 200
        writer.close()
        its.close()


async def test_after_a_good_request():
    """Also a later request of a connection."""
    async with house() as here:
        reader, writer = await here.connect()
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200
        writer.write(
            HEAD + b"".join(field(FIELD_LIMIT - 9, b"X%d" % number) for number in range(HEAD_LIMIT // FIELD_LIMIT + 1))
        )
        assert (await answer(reader))[0] == 431
        writer.close()


async def test_an_expectation():
    """It is refused before any middleware is reached, and shown to nobody."""
    async with house() as here:
        reader, writer = await here.connect()
        writer.write(HEAD + b"Expect: yyy\r\n\r\n")
        status, headers, body = await answer(reader)
        assert (status, headers["content-type"]) == (417, "application/problem+json; charset=utf-8")
        assert json.loads(body)["error"] == "expectation failed"
        assert b"yyy" not in body
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200
        writer.close()


def test_raw():
    """An answer is written as HTTP has it."""
    head, _, body = heads.raw(heads.too_many()).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert f"Content-Length: {len(body)}" in lines
    assert "Connection: close" in lines
    assert "Retry-After: 1" in lines
    assert json.loads(body)["error"] == "too many connections"


def test_fault():
    """What else goes wrong is a 500 that says nothing."""
    response = heads.fault()
    assert (response.status, json.loads(response.text)["error"]) == (500, "internal error")
