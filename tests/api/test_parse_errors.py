"""Responses to requests that reach no handler."""

import asyncio
import json
import logging
import re

import pytest
from metric_samples import counts
from small_server import REQUEST, read_response, read_to_end, small_server
from waiting import eventually

from att.core.log_limits import RateLimited
from att.http import connections, parse_errors
from att.http.access_log import _REJECTIONS, RequestLog
from att.http.parse_errors import FIELD_LIMIT, FIELDS, HEAD_LIMIT, LINE_LIMIT

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
    """The response is a problem with our headers, and the connection is closed. Input is not repeated."""
    async with small_server() as server:
        reader, writer = await server.connect()
        writer.write(data)
        found, headers, body = await read_response(reader)
        problem = json.loads(body)
        assert (found, problem["status"], problem["error"]) == (status, status, code), problem
        assert headers["content-type"] == "application/problem+json; charset=utf-8"
        assert headers["cache-control"] == "no-store"
        assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
        assert headers["connection"] == "close"
        assert "server" not in headers  # it would tell versions
        assert "yyy" not in str(problem)
        assert await read_to_end(reader) == b""
        writer.close()
        await server.has(open=0)
    assert not caplog.records


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        ("BREW / HTTP/1.1", "The server does not support this method"),
        ("BREW", "The request does not begin with a method"),
        ("GET / HTTP/1.1", "A request of HTTP/1.1 needs a Host header"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b", "A request may have no more than one Host header"),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b", "This is not HTTP/1.1"),
    ],
)
async def test_detail(data, detail):
    async with small_server() as server:
        reader, writer = await server.connect()
        writer.write(f"{data}\r\n\r\n".encode())
        assert json.loads((await read_response(reader))[2])["detail"].startswith(detail)
        writer.close()


async def test_allowed():
    """Requests up to the limits are served."""
    async with small_server() as server:
        reader, writer = await server.connect()
        line = b"GET /?" + b"x" * (LINE_LIMIT - 100) + b" HTTP/1.1\r\nHost: att\r\n"
        many = b"".join(field(100, b"X%d" % number) for number in range(FIELDS - 10))
        large = field(FIELD_LIMIT - 100)
        for head in (line, HEAD + many, HEAD + large, HEAD + large * 3, line + large + many):
            writer.write(head + b"\r\n")
            assert (await read_response(reader))[0] == 200
        # Each connection is measured by itself.
        writer.write(REQUEST[:9])
        other, its = await server.connect()
        its.write(REQUEST)
        assert (await read_response(other))[0] == 200
        writer.write(REQUEST[9:])
        assert (await read_response(reader))[0] == 200
        writer.close()
        its.close()


async def test_after_a_good_request():
    """The limits hold for later requests of a connection, too."""
    async with small_server() as server:
        reader, writer = await server.connect()
        writer.write(REQUEST)
        assert (await read_response(reader))[0] == 200
        writer.write(
            HEAD + b"".join(field(FIELD_LIMIT - 9, b"X%d" % number) for number in range(HEAD_LIMIT // FIELD_LIMIT + 1))
        )
        assert (await read_response(reader))[0] == 431
        writer.close()


ACCESS = "att.access"


def lines(caplog):
    """Return the fields of the access log's lines that other log records do not have."""
    usual = logging.makeLogRecord({}).__dict__.keys() | {"message"}
    return [
        {key: value for key, value in record.__dict__.items() if key not in usual}
        for record in caplog.records
        if record.name == ACCESS
    ]


@pytest.mark.parametrize("logs_requests", [True, False])
async def test_rejections_are_logged_and_counted(caplog, monkeypatch, logs_requests):
    """Each gets a log line, if the operator wants them, without input, and counts by status."""
    monkeypatch.setattr(connections, "_SWEEP_INTERVAL", 0.01)
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.05)
    caplog.set_level("INFO", ACCESS)
    request_log = RequestLog(logs_requests=logs_requests)
    ids = []
    async with small_server(per_address=1, request_log=request_log) as server:
        sent = [
            (HEAD + b"X: hush", 408),
            (b"GET /?hush=hush HTTP/1.1\r\nAuthorization: hush\r\n\r\n", 400),
            (b"BREW /hush HTTP/1.1\r\n\r\n", 501),
            (b"GET /hush" + b"x" * LINE_LIMIT, 414),
            (HEAD + field(FIELD_LIMIT + 1, b"Hush"), 431),
            (HEAD + b"Expect: hush\r\nConnection: close\r\n\r\n", 417),
        ]
        for data, status in sent:
            reader, writer = await server.connect()
            writer.write(data)
            found, headers, _ = await read_response(reader)
            assert found == status
            ids.append(headers.get("x-request-id"))
            writer.close()
            await server.has(open=0)
        silent, its = await server.connect()
        refused, another = await server.connect()
        found, headers, _ = await read_response(refused)
        ids.append(headers["x-request-id"])
        assert await read_to_end(silent) == b""  # it has sent nothing, and gets no response
        its.close()
        another.close()
    statuses = [*(status for _, status in sent), 503]
    assert counts(request_log.refusals) == {(str(status),): 1 for status in statuses}
    assert counts(request_log.requests) == {}
    unknown = dict.fromkeys(("user_id", "method", "route", "user_agent", "ms"))
    logged = [
        {**unknown, "status": status, "request_id": request_id, "address": "127.0.0.1"}
        for status, request_id in zip(statuses, ids, strict=True)
    ]
    assert lines(caplog) == (logged if logs_requests else [])
    assert "hush" not in caplog.text


async def test_a_rejection_counts_once(monkeypatch):
    """A client that is slow to read the response, so that the connection stays open, counts once."""
    monkeypatch.setattr(connections, "_SWEEP_INTERVAL", 0.01)
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.05)
    request_log = RequestLog()
    async with small_server(request_log=request_log) as server:
        reader, writer = await server.connect()
        writer.write(HEAD)
        [connection] = await eventually(lambda: awaiting(server))
        transport = connection.transport
        monkeypatch.setattr(type(connection), "connection_lost", lambda *_: None)
        assert (await read_response(reader))[0] == 408
        await asyncio.sleep(0.2)
        monkeypatch.undo()
        assert transport.is_closing()
        connection.connection_lost(None)
        writer.close()
    assert counts(request_log.refusals) == {("408",): 1}


async def awaiting(server):
    return [one for one in server.limiter._awaiting if one._arrived]


async def test_many_rejections(caplog):
    """Each is counted, few are logged, and the next line says how many were not."""
    caplog.set_level("INFO", ACCESS)
    request_log = RequestLog(logs_requests=True)
    clock = iter([0.0] * 100 + [5.0])
    request_log._rejections = RateLimited(_REJECTIONS, lambda: next(clock))
    async with small_server(per_address=1, request_log=request_log) as server:
        _, writer = await server.connect()
        await server.has(open=1)
        for _ in range(101):
            refused, its = await server.connect()
            assert (await read_response(refused))[0] == 503
            its.close()
        writer.close()
    assert counts(request_log.refusals) == {("503",): 101}
    logged = lines(caplog)
    assert len(logged) == _REJECTIONS + 1
    assert [line.get("untold") for line in logged] == [None] * _REJECTIONS + [100 - _REJECTIONS]


async def test_an_expectation():
    """An unknown expectation is rejected before any middleware, and not repeated."""
    async with small_server() as server:
        reader, writer = await server.connect()
        writer.write(HEAD + b"Expect: yyy\r\n\r\n")
        status, headers, body = await read_response(reader)
        assert (status, headers["content-type"]) == (417, "application/problem+json; charset=utf-8")
        assert json.loads(body)["error"] == "expectation failed"
        assert b"yyy" not in body
        writer.write(REQUEST)
        assert (await read_response(reader))[0] == 200
        writer.close()


def test_raw():
    """A response is written in HTTP/1.1."""
    head, _, body = parse_errors.raw(parse_errors.too_many()).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert f"Content-Length: {len(body)}" in lines
    assert "Connection: close" in lines
    assert "Retry-After: 1" in lines
    assert json.loads(body)["error"] == "too many connections"


def test_fault():
    """Any other failure is a 500 without details."""
    response = parse_errors.fault()
    assert (response.status, json.loads(response.text)["error"]) == (500, "internal error")
