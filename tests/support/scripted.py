"""A server of att.v1 that does as it is told, frame by frame: for what a real one cannot be made to do."""

import contextlib
from datetime import UTC, datetime

from aiohttp import web

PATIENCE = 10  # seconds for what should come at once
G1, G2, G3 = (f"86fd539a-d29f-4d47-8ced-1e78a9e50d3{number}" for number in (1, 2, 3))
ME = "513c5a25-edc3-4715-95bc-32682b4ba522"
AT = "2026-11-22T02:35:09.154152Z"
MOMENT = datetime(2026, 11, 22, 2, 35, 9, 154152, tzinfo=UTC)
RULES = {"join": "open", "post": "owners", "retention": 7, "history": "all"}


class Script:
    """A server of which each connection plays the next part, and each request gets the next answer."""

    def __init__(self):
        self.parts, self.answers = [], []
        self.resumes, self.requests, self.frames, self.offered, self.chosen = [], [], [], [], []
        self.groups, self.heartbeat, self.epoch = {G1: 0}, 25.0, "first"
        self.epochs = []
        self.app = web.Application()
        self.app.router.add_get("/listen/me", self._listen)
        self.app.router.add_post("/{path:.*}", self._answer)
        self.url = None

    async def _listen(self, request):
        self.offered.append((request.headers.get("Authorization"), request.headers.get("Sec-WebSocket-Protocol")))
        self.chosen.append(request.query.getall("group", []))
        part = self.parts.pop(0)
        if isinstance(part, web.Response):
            return part
        socket = web.WebSocketResponse(protocols=["att.v1"])
        await socket.prepare(request)
        self.transport = request.transport
        groups = [{"id": group, "name": "tea", "seq": seq} for group, seq in self.groups.items()]
        hello = {"type": "hello", "user_id": ME, "session_id": ME, "heartbeat": self.heartbeat, "groups": groups}
        await socket.send_json(hello | ({"epoch": self.epoch} if self.epoch else {}))
        with contextlib.suppress(TypeError):  # it has hung up instead
            resume = await socket.receive_json()
            assert resume.pop("type") == "resume"
            self.resumes.append(resume["groups"])
            self.epochs.append(resume.get("epoch"))
            await part(socket)
        return socket

    async def _answer(self, request):
        self.requests.append((request.raw_path, request.headers.get("Idempotency-Key"), await request.read()))
        answer = self.answers.pop(0)
        if answer is None:
            request.transport.abort()
        return answer or web.Response()


def message(seq, group=G1, **members):
    """A message frame."""
    usual = {"type": "message", "group": group, "name": "tea", "seq": seq, "from": ME, "at": AT, "data": {"n": seq}}
    return usual | members


def sends(*frames, then=None):
    """A part that sends these frames, and then does something or waits to be hung up on."""

    async def part(socket):
        for frame in frames:
            await (socket.send_str(frame) if isinstance(frame, str) else socket.send_json(frame))
        await (then or wait)(socket)

    return part


async def wait(socket):
    """Say nothing until the client has gone."""
    async for _ in socket:
        pass


def closes(code, reason=""):
    """Close with this code."""

    async def part(socket):
        await socket.close(code=code, message=reason.encode())

    return part


def problem(status, code, detail="It rains.", **headers):
    """A refusal over HTTP."""
    return web.json_response({"error": code, "detail": detail}, status=status, headers=headers)


def accepted(seq=3):
    """An answer to a broadcast."""
    return web.json_response({"group": G1, "seq": seq, "at": AT, "delivered": 1, "dropped": 0})
