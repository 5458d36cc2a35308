"""Users' sockets that speak att.v1."""

import asyncio

import pytest
from aiohttp import WSMsgType

DEADLINE = 20
V1 = ("att.v1",)


class Talk:
    """A user's socket that speaks att.v1."""

    def __init__(self, ws):
        self.ws = ws
        self.hello = None

    async def send(self, **frame):
        await self.ws.send_json(frame)

    async def receive(self):
        """Return the next frame."""
        return await self.ws.receive_json(timeout=DEADLINE)

    async def receive_until(self, kind):
        """Return the frames up to the first one of this type."""
        heard = [await self.receive()]
        while heard[-1]["type"] != kind:
            heard.append(await self.receive())
        return heard

    async def closed(self):
        """The code and the reason with which it is closed."""
        message = await self.ws.receive(timeout=DEADLINE)
        assert message.type is WSMsgType.CLOSE, message
        return message.data, message.extra


@pytest.fixture
async def talk():
    """Open a user's socket, and resume from these positions."""
    opened = []

    async def go(person, resume=None, **options):
        said = Talk(await person.listen(protocols=V1, **options))
        opened.append(said)
        assert said.ws.protocol == "att.v1"
        said.hello = await said.receive()
        if resume is not None:
            await said.send(type="resume", groups=resume)
        return said

    yield go
    await asyncio.gather(*(said.ws.close() for said in opened))


def parts(frames, *names):
    """These members of each frame."""
    return [tuple(frame.get(name) for name in names) for frame in frames]
