"""Redis over TLS (rediss://), by a proxy in front of the Valkey from a wheel, which has no TLS."""

import asyncio
import contextlib
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from brokers import EPOCH, TEA, RecordingHandler, message

from att.errors import CannotStart
from att.realtime.brokers.redis import RedisBroker
from att.redis.client import RedisClient
from att.sessions.redis_scripts import TRIAL, TRIAL_KEYS

CERTIFICATES = Path(__file__).parents[1] / "certificates"


@pytest.fixture
async def proxy_port(valkey_url):
    """Its port: what comes in by TLS goes on to Valkey, and back."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATES / "one.pem", CERTIFICATES / "one.key")
    inside, open_ones = urlsplit(valkey_url), set()

    async def pass_on(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def let_in(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection(inside.hostname, inside.port)
        for source, target in [(reader, inner_writer), (inner_reader, writer)]:
            task = asyncio.create_task(pass_on(source, target))
            open_ones.add(task)
            task.add_done_callback(open_ones.discard)

    server = await asyncio.start_server(let_in, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in open_ones:
        task.cancel()
    await asyncio.gather(*open_ones, return_exceptions=True)


async def test_encrypted(proxy_port):
    """Scripts and the broker work with a certificate of a given authority."""
    url = f"rediss://localhost:{proxy_port}?ssl_ca_certs={CERTIFICATES / 'ca.pem'}"
    redis_client = await RedisClient.connect(url, TRIAL, TRIAL_KEYS)
    await redis_client.ping()
    broker, handler = RedisBroker(redis_client), RecordingHandler()
    async with broker.running(handler):
        await handler.until(lambda: handler.changes)
        broker.announce_head(TEA, 7)
        broker.subscribe(TEA)
        await handler.until(lambda: TEA in handler.subscribed)
        broker.announce(message(8, TEA), EPOCH)
        await handler.until(lambda: handler.groups.get(TEA) == 8)
    await redis_client.close()


async def test_trusted_by_the_environment(proxy_port, monkeypatch):
    """The advice of the error works."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))
    redis_client = await RedisClient.connect(f"rediss://localhost:{proxy_port}")
    await redis_client.ping()
    await redis_client.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("rediss://localhost:{}", "its certificate is not trusted: "),
        ("rediss://localhost:{}", "SSL_CERT_FILE may name others to trust"),
        ("rediss://localhost:{}?ssl_ca_certs=/no/such.pem", "no such file"),
        ("redis://localhost:{}", "cannot use Redis"),
    ],
    ids=["authority", "remedy", "file", "no TLS"],
)
async def test_not_trusted(proxy_port, url, says):
    """An untrusted certificate is refused, with one line that says why."""
    with pytest.raises(CannotStart) as caught:
        await RedisClient.connect(url.format(proxy_port, CERTIFICATES / "ca.pem"))
    assert says in caught.value.detail
    assert "\n" not in caught.value.detail
