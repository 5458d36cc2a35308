"""A client for att: hear what is broadcast to one's groups, miss nothing, and broadcast.

    async with Client("https://att.example", token=token) as client:
        async for event in client.listen(positions):
            match event:
                case Message():
                    print(event.name, event.data)
            save(client.positions)

A lost connection is made again, and what was missed meanwhile comes first. What another try cannot mend is raised.
"""

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit
from uuid import uuid4

import aiohttp

from att import errors
from att.client.connection import ClientConnection
from att.client.messages import Ack, Event, Gap, Joined, Left, Lost, Message, refusal
from att.core.error_text import describe_error
from att.core.names import check_key
from att.protocol.messages import RESUME_LIMIT, check_object

__all__ = ["Ack", "Backoff", "Client", "Event", "Gap", "Joined", "Left", "Message"]

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds
LONGEST_HINT = 300.0  # seconds
STABLE = 30.0  # seconds after which a connection counts as good
REQUEST_TIMEOUT = 30.0  # seconds for one answer over HTTP
BROADCAST_TIMEOUT = 60.0  # seconds in which a broadcast is tried again
_TO_TRY_AGAIN = {408, 429, *range(500, 600)} - {501, 505}  # statuses
_NEVER_OURS = {200, 404, 405, 501, 505}  # statuses that are no answer of att's to what we ask
_OF_STATUS: dict[int, type[errors.AttError]] = {
    401: errors.NotSignedIn,
    403: errors.Forbidden,
}

log = logging.getLogger("att.client.client")


class Backoff:
    """How long to wait before the next try: anything up to a bound that doubles each time ("full jitter")."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._bound = FIRST_DELAY

    def next(self, hint: float = 0.0) -> float:
        """Seconds; at least as many as the server asks for."""
        bound, self._bound = self._bound, min(self._bound * 2, LONGEST_DELAY)
        return min(hint, LONGEST_HINT) + self._uniform(0, bound)

    def reset(self) -> None:
        """Begin anew."""
        self._bound = FIRST_DELAY


class Client:
    """One user's connection to a server at ``url``, signed in by ``token``. Use it as an async context manager.

    Raises ValueError when either cannot be one.
    """

    def __init__(self, url: str, *, token: str) -> None:
        self._url = _check_url(url)
        self._headers = {"Authorization": f"Bearer {_check_token(token)}"}
        self._session: aiohttp.ClientSession | None = None
        self._channel: ClientConnection | None = None
        self._is_listening = False
        self.positions: dict[str, int] = {}
        """By the id of the group the seq of the last event that ``listen`` has given: what to store, and to give to
        ``listen`` the next time.
        """
        self.connected = asyncio.Event()
        """Set while ``listen`` hears the server."""

    @classmethod
    async def log_in(cls, url: str, login: str, password: str) -> Self:
        """A client of whoever has this login and password.

        Raises AuthFailed, TooManyAttempts, Unavailable when the server cannot be reached, and other AttErrors when it
        is none of ours.
        """
        async with aiohttp.ClientSession() as session:
            body = json.dumps({"login": login, "password": password}).encode()
            try:
                answer = await _post(session, _check_url(url) + "/login", body, {}, {"token"})
            except Lost as lost:
                if lost.status == 429:
                    raise errors.TooManyAttempts(int(lost.hint)) from lost
                raise errors.Unavailable(f"Nobody can sign in now: {lost}.") from lost
        return cls(url, token=answer["token"])

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._hang_up()
        if self._session is not None:
            await self._session.close()

    async def listen(self, positions: Mapping[str, int] | None = None) -> AsyncGenerator[Event, None]:
        """Every event of every group of one's own, in order within each group, none twice, for as long as it is asked.

        With the ``positions`` of an earlier time it begins after them, also in groups that one has been added to since;
        with none it begins now. Where the server no longer keeps what was missed, there is a Gap. An event counts as
        heard when the next one is asked for; ``self.positions`` have it already while it is dealt with.

        Raises NotSignedIn or SessionEnded, when one must sign in again, and other AttErrors that another try cannot
        mend. Everything else is tried again, without end.
        """
        if self._is_listening:
            raise RuntimeError("this client listens already")
        self.positions = dict(positions or {})
        self._is_listening = True
        backoff, is_fresh = Backoff(), not positions
        try:
            while True:
                since = _now()
                try:
                    channel = await self._connect(is_fresh=is_fresh)
                    is_fresh = False
                    while True:
                        yield self._note(await channel.next())
                except Lost as lost:
                    if _now() - since > STABLE:
                        backoff.reset()
                    delay = backoff.next(lost.hint)
                    log.warning("%s; trying again in %.1f s", lost, delay)
                finally:
                    await self._hang_up()
                await self._pause(delay)
        finally:
            self._is_listening = False

    async def broadcast(self, group: str, data: Mapping[str, Any] | bytes, key: str | None = None) -> Ack:
        """Broadcast a JSON object (as bytes it is sent byte for byte) to the group of this id or name.

        It is tried again until the server has said that it is in the log, for up to a minute; a ``key``, of the
        caller's or made up here, sees to it that it is there once. Raises what refuses it: NotAMember, NoSuchGroup, …,
        and Unavailable when it is not known whether the server has it.
        """
        key = uuid4().hex if key is None else check_key(key)
        body = _encode(data)
        backoff, until = Backoff(), _now() + BROADCAST_TIMEOUT
        channel = self._channel if self._channel is not None and self._channel.is_free else None
        while True:
            try:
                if channel is not None:
                    return await channel.broadcast(group, body, key)
                return await self._post_broadcast(group, body, key)
            except Lost as lost:
                reason, delay = str(lost), backoff.next(lost.hint)
                if _now() + delay > until:
                    raise errors.Unavailable(f"The broadcast may have been lost: {lost}.") from lost
            log.warning("%s; trying again in %.1f s", reason, delay)
            channel = None  # which did not answer, or will not be there so soon
            await self._pause(delay)

    async def _post_broadcast(self, group: str, body: bytes, key: str) -> Ack:
        if group in {"", ".", ".."}:
            raise errors.NoSuchGroup  # nor would a URL hold it
        path = f"{self._url}/broadcast/{quote(group, safe='')}"
        headers = {"Idempotency-Key": key}
        answer = await _post(self._open_session(), path, body, headers, {"group", "seq", "at"})
        return Ack(answer["group"], answer["seq"], datetime.fromisoformat(answer["at"]))

    async def _connect(self, *, is_fresh: bool) -> ClientConnection:
        """Connect, and resume where we are. Raises Lost, or an AttError."""
        try:
            channel = self._channel = await ClientConnection.open(self._open_session(), f"{self._url}/listen/me")
        except aiohttp.WSServerHandshakeError as error:
            raise _refused(self._url, error.status, error.headers or {}, {"detail": error.message}) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(self._url, error) from error
        for group, seq in channel.groups.items():
            # Of a group that has come while we were away we hear everything from our joining on.
            self.positions.setdefault(group, seq if is_fresh else 0)
        heard_first = sorted(self.positions, key=channel.groups.__contains__, reverse=True)
        await channel.resume({group: self.positions[group] for group in heard_first[:RESUME_LIMIT]})
        self.connected.set()
        return channel

    def _note(self, event: Event) -> Event:
        self.positions[event.group] = event.seq
        return event

    async def _hang_up(self) -> None:
        self.connected.clear()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use the client in 'async with'")
        return self._session


def _now() -> float:
    return asyncio.get_running_loop().time()


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is no address of a server, as in https://att.example")
    return url.rstrip("/")


def _check_token(token: str) -> str:
    """The token without space around it, which a file may have added. Raises ValueError if it cannot be one."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ValueError("the token contains characters that no token has")
    return token


def _encode(data: Mapping[str, Any] | bytes) -> bytes:
    """Return the object as JSON. Raise NotJson or NotAnObject if the server would not take it."""
    try:
        body = data if isinstance(data, bytes) else json.dumps({**data} if isinstance(data, Mapping) else data).encode()
    except (TypeError, ValueError) as error:
        raise errors.NotJson(f"The data to broadcast cannot be written as JSON: {error}.") from error
    try:
        check_object(body)
    except TypeError as error:
        raise errors.NotAnObject("The data to broadcast must be a JSON object: {...}.") from error
    except ValueError as error:
        raise errors.NotJson(f"The data to broadcast is not JSON (RFC 8259) in UTF-8: {error}.") from error
    return body


async def _post(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str], members: set[str]
) -> dict[str, Any]:
    """The JSON object that is answered, which has these members. Raises Lost, or what the server refuses it with."""
    headers = {"Content-Type": "application/json"} | headers
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT), session.post(url, data=body, headers=headers) as response:
            answer = await response.json(content_type=None) if "json" in response.content_type else {}
            told: dict[str, Any] = answer if isinstance(answer, dict) else {}
            if response.status == 200 and members <= told.keys():
                return told
            raise _refused(url, response.status, response.headers, told)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _failure(url, error) from error


def _failure(url: str, error: Exception) -> Exception:
    """What it means that there was no answer, or one that cannot be read."""
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.InvalidURL):
        return errors.AttError(f"There is no safe way to the server at {_origin(url)}: {describe_error(error)}.")
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return errors.AttError(_no_att(url, "something that cannot be read"))
    return Lost(
        f"the server at {_origin(url)} cannot be reached: {describe_error(error)}"
        " (is it running, and is the URL right?)"
    )


def _refused(url: str, status: int, headers: Mapping[str, str], problem: dict[str, Any]) -> Exception:
    """What an answer means that is not the one hoped for."""
    detail = problem.get("detail", "")
    if status in _TO_TRY_AGAIN:
        hint = headers.get("Retry-After", "")
        return Lost(detail or f"the server answered {status}", float(hint) if hint.isdecimal() else 0.0, status)
    if status in _NEVER_OURS and problem.get("error", "not found") == "not found":
        kind = errors.NotFound if status == 404 else errors.AttError
        return kind(_no_att(url, str(status)))
    if "error" in problem:
        return refusal(problem["error"], detail)
    if status in _OF_STATUS:
        return _OF_STATUS[status]()
    return errors.AttError(
        f"The server at {_origin(url)} answered {status}{detail and f': {detail}'}; look at the URL."
    )


def _no_att(url: str, answer: str) -> str:
    return f"What answers at {_origin(url)} is no att, or not at this path (it answered {answer}); look at the URL."


def _origin(url: str) -> str:
    """The server of a URL, without a password that somebody has put there."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
