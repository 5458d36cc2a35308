"""The scripted server, told what to do by HTTP: `PUT /script` has the parts as JSON, `GET /script` what was seen."""

from typing import Any

from aiohttp import web
from scripted import AT, G1, Script, message, problem, wait


class ControlledScript(Script):
    """A script for clients that run in another process."""

    def __init__(self) -> None:
        super().__init__()
        self.app.router.add_put("/script", self._change)
        self.app.router.add_get("/script", self._show)
        self.app.router.add_get("/{path:.*}", self._answer)

    async def _change(self, request: web.Request) -> web.Response:
        told = await request.json()
        self.groups, self.epoch = told.get("groups", {G1: 0}), told.get("epoch", "first")
        self.heartbeat = told.get("heartbeat", 25.0)
        self.parts = [self._part(part) for part in told.get("parts", ())]
        self.answers = [_response(answer) for answer in told.get("answers", ())]
        for seen in (self.resumes, self.epochs, self.requests, self.frames, self.offered):
            seen.clear()
        return web.Response()

    async def _show(self, _request: web.Request) -> web.Response:
        requests = [(path, key, body.decode()) for path, key, body in self.requests]
        seen = {name: getattr(self, name) for name in ("resumes", "epochs", "frames", "offered")}
        return web.json_response(seen | {"requests": requests})

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        if not self.parts:
            return web.Response(status=503)  # a client that connects again after its test
        if not isinstance(self.parts[0], dict):
            return await super()._listen(request)
        self.offered.append((None, request.headers.get("Sec-WebSocket-Protocol")))
        part = self.parts.pop(0)
        socket = web.WebSocketResponse(protocols=["att.v1"])
        await socket.prepare(request)
        await self._play(part, socket)
        return socket

    def _part(self, part: dict[str, Any]) -> Any:
        if "status" in part:
            return problem(part["status"], "busy")
        if not part.get("hello", True):
            return part  # without hello and resume before it
        return lambda socket: self._play(part, socket)

    async def _play(self, part: dict[str, Any], socket: web.WebSocketResponse) -> None:
        """Send frames, receive and answer some, send others, and end as the part says, or when the client goes."""
        await _send(socket, part.get("send", ()))
        await _send(socket, map(message, range(1, part.get("messages", 0) + 1)))
        answers = part.get("answers", ["ack"] * part.get("acks", 0) + ["pong"] * part.get("pongs", 0))
        for number in range(max(part.get("frames", 0), len(answers))):
            frame = await socket.receive_json()
            self.frames.append(frame)
            if number < len(answers):
                await socket.send_json(_answer(answers[number], frame, answers[: number + 1].count("ack")))
        await _send(socket, part.get("afterwards", ()))
        self.groups = part.get("then", {}).get("groups", self.groups)
        self.epoch = part.get("then", {}).get("epoch", self.epoch)
        if part.get("deaf"):
            self.frames.extend([frame.json() async for frame in socket])
        elif part.get("abort"):
            self.transport.abort()
        elif close := part.get("close"):
            await socket.close(code=close[0], message=(close[1:] or [""])[0].encode())
        else:
            await wait(socket)


def _answer(answer: Any, frame: dict[str, Any], seq: int) -> dict[str, Any]:
    if answer == "pong":
        return {"type": "pong"}
    if answer == "ack":
        return {"type": "ack", "id": frame["id"], "group": G1, "seq": seq, "at": AT, "epoch": "first"}
    return {"id": frame["id"]} | answer


def _response(answer: dict[str, Any] | None) -> web.Response | None:
    if answer is None:
        return None
    status, headers = answer.get("status", 200), answer.get("headers")
    if "json" in answer:
        return web.json_response(answer["json"], status=status, headers=headers)
    return web.Response(text=answer.get("text", ""), status=status, headers=headers)


async def _send(socket: web.WebSocketResponse, frames: Any) -> None:
    for frame in frames:
        await (socket.send_str(frame) if isinstance(frame, str) else socket.send_json(frame))
