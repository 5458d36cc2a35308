"""A client for att: receive every event of the user's groups, and broadcast.

    async with Client("https://att.example", token=token) as client:
        async for event in client.listen(positions):
            match event:
                case Message():
                    print(event.name, event.data)
            save(client.positions, client.epoch)

The client reconnects after a lost connection and first gives the events it missed. It raises errors that another try
cannot fix.
"""

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import aiohttp

from att import errors
from att.client.connection import ClientConnection
from att.client.messages import (
    Ack,
    Changed,
    EphemeralMessage,
    Event,
    Gap,
    Joined,
    Left,
    Lost,
    Message,
    NewEpoch,
    Online,
    Profile,
    Redacted,
    Rewind,
    RoleChanged,
    refusal,
)
from att.core.error_text import describe_error
from att.core.names import check_key
from att.protocol.messages import RESUME_LIMIT, check_object

__all__ = [
    "Ack",
    "Backoff",
    "Changed",
    "Client",
    "EphemeralMessage",
    "Event",
    "Gap",
    "Joined",
    "Left",
    "Message",
    "Online",
    "Profile",
    "Redacted",
    "Rewind",
    "RoleChanged",
]

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds
LONGEST_HINT = 300.0  # seconds
STABLE = 30.0  # seconds after which a connection counts as good
REQUEST_TIMEOUT = 30.0  # seconds for one answer over HTTP
BROADCAST_TIMEOUT = 60.0  # seconds in which a broadcast is tried again
_RETRIED = {408, 429, *range(500, 600)} - {501, 505}  # statuses
_NEVER_ATT = {200, 404, 405, 501, 505}  # statuses that att does not answer to these requests
_ERROR_BY_STATUS: dict[int, type[errors.AttError]] = {401: errors.NotSignedIn, 403: errors.Forbidden}

log = logging.getLogger("att.client.client")


class Backoff:
    """Random pauses between tries, up to a bound that doubles each time ("full jitter")."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._bound = FIRST_DELAY

    def next(self, hint: float = 0.0) -> float:
        """Return the seconds to wait; at least ``hint``, which the server asks for."""
        bound, self._bound = self._bound, min(self._bound * 2, LONGEST_DELAY)
        return min(hint, LONGEST_HINT) + self._uniform(0, bound)

    def reset(self) -> None:
        """Start again with the first bound."""
        self._bound = FIRST_DELAY


class Client:
    """One user's connection to a server at ``url``, signed in by ``token``. Use it as an async context manager.

    Raises ValueError if the URL or the token is malformed.
    """

    def __init__(self, url: str, *, token: str) -> None:
        self._url = _check_url(url)
        self._headers = {"Authorization": f"Bearer {_check_token(token)}"}
        self._session: aiohttp.ClientSession | None = None
        self._connection: ClientConnection | None = None
        self._is_listening = False
        self.positions: dict[str, int] = {}
        """Last seq yielded by ``listen``, by group id. Store it and pass it to the next ``listen``."""
        self.epoch = ""
        """Epoch of the log that ``positions`` are of. Store it with them. Empty before ``listen`` is connected."""
        self.markers: dict[str, int] = {}
        """Read markers of the user by group id, as ``listen`` has received them last."""
        self.unread: dict[str, int | None] = {}
        """Unread messages by group id when ``listen`` connected last; None where they were not counted."""
        self.online: dict[str, Online] = {}
        """Connected members by group id, if ``listen`` was given ``on_presence``. Empty while it is not connected."""
        self.connected = asyncio.Event()
        """Set while ``listen`` is connected."""

    @classmethod
    async def log_in(cls, url: str, login: str, password: str) -> Self:
        """Sign in and return a client.

        Raise AuthFailed, TooManyAttempts, Unavailable if the server cannot be reached, or another AttError if it is not
        att.
        """
        async with aiohttp.ClientSession() as session:
            body = json.dumps({"login": login, "password": password}).encode()
            try:
                answer = await _post(session, _check_url(url) + "/login", body, {}, {"token"})
            except Lost as lost:
                if lost.status == 429:
                    raise errors.TooManyAttempts(int(lost.hint)) from lost
                raise errors.Unavailable(f"Signing in is impossible now: {lost}.") from lost
        return cls(url, token=answer["token"])

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._disconnect()
        if self._session is not None:
            await self._session.close()

    async def listen(
        self,
        positions: Mapping[str, int] | None = None,
        epoch: str = "",
        on_ephemeral: Callable[[EphemeralMessage], object] = lambda _: None,
        on_presence: Callable[[Online], object] | None = None,
        groups: Iterable[str] = (),
    ) -> AsyncGenerator[Event, None]:
        """Yield every event of every group of the user, in order within each group, each once, without end.

        With ``groups``, up to 100 ids or names, yield only the events of these.

        Start after ``positions``, also in groups that the user has joined since; without them start now. Yield a Gap
        where the server no longer keeps the missed events, and a Rewind where its log has lost events that were yielded
        before; to find them it needs the ``epoch`` of the positions. ``self.positions`` contain an event as soon as it
        is yielded.

        Call ``on_ephemeral`` with each ephemeral message, and ``on_presence`` with who is online in a group at first
        and after each change, as soon as it is read; they have no order with the events.

        Raise NotSignedIn or SessionEnded if the user must sign in again, NoSuchGroup or NotAMember if ``groups`` name
        such a one, and other AttErrors that another try cannot fix. Retry everything else, without end.
        """
        if self._is_listening:
            raise RuntimeError("this client is already listening")
        self.positions, self.epoch = dict(positions or {}), epoch if positions else ""
        self._is_listening = True
        query = urlencode([("group", group) for group in groups])
        backoff, is_fresh = Backoff(), not positions
        try:
            while True:
                since = _now()
                try:
                    connection = await self._open(query)
                    connection.on_ephemeral, connection.on_presence = on_ephemeral, on_presence
                    await self._resume(connection, is_fresh=is_fresh)
                    is_fresh = False
                    while True:
                        event = await connection.next()
                        if isinstance(event, NewEpoch):
                            self.epoch = event.epoch
                            continue
                        self.positions[event.group] = event.seq
                        yield event
                except Lost as lost:
                    if _now() - since > STABLE:
                        backoff.reset()
                    delay = backoff.next(lost.hint)
                    log.warning("%s; trying again in %.1f s", lost, delay)
                finally:
                    await self._disconnect()
                await self._pause(delay)
        finally:
            self._is_listening = False

    async def broadcast(self, group: str, data: Mapping[str, Any] | bytes, key: str | None = None) -> Ack:
        """Broadcast a JSON object to the group with this id or name. Bytes are sent unchanged.

        Retry for up to a minute until the server has it in its log. The ``key``, which is generated if not given, makes
        sure that it is there once. Raise the server's refusal (NotAMember, NoSuchGroup, …), or Unavailable if the
        server may or may not have it.
        """
        key = uuid4().hex if key is None else check_key(key)
        body = _encode(data)
        backoff, until = Backoff(), _now() + BROADCAST_TIMEOUT
        connection = self._connection if self._connection is not None and self._connection.is_responsive else None
        while True:
            try:
                if connection is not None:
                    return await connection.broadcast(group, body, key)
                return await self._post_broadcast(group, body, key)
            except Lost as lost:
                reason, delay = str(lost), backoff.next(lost.hint)
                if _now() + delay > until:
                    raise errors.Unavailable(f"The broadcast may have been lost: {lost}.") from lost
            log.warning("%s; trying again in %.1f s", reason, delay)
            connection = None  # it did not answer: use HTTP
            await self._pause(delay)

    async def ephemeral(self, group: str, data: Mapping[str, Any] | bytes) -> None:
        """Send a JSON object to those who listen now to the group with this id or name. The server does not keep it.

        Raise the server's refusal (NotAMember, NoSuchGroup, …), or Unavailable if it may not have been sent.
        """
        body, connection = _encode(data), self._connection
        try:
            # A server that is too old for it knows no epochs either. It would close the socket.
            if connection is not None and connection.is_responsive and connection.epoch:
                await connection.broadcast_ephemeral(group, body)
            else:
                url = f"{self._url}/broadcast/{_in_path(group)}?ephemeral=true"
                await _post(self._open_session(), url, body, {}, {"group"})
        except Lost as lost:
            raise errors.Unavailable(f"The message may have been lost: {lost}.") from lost

    async def read(self, group: str, seq: int) -> int:
        """Move the user's read marker of the group with this id or name, unless it is there or beyond it.

        Return the number of unread messages above the marker, at most 100. Raise NoSuchGroup, NotAMember, another
        AttError, or Unavailable.
        """
        body = json.dumps({"seq": seq}).encode()
        path = f"{self._url}/groups/{_in_path(group)}/read"
        try:
            answer = await _send(self._open_session(), "PUT", path, body, {}, {"read", "unread"})
        except Lost as lost:
            raise errors.Unavailable(f"The marker may not have moved: {lost}.") from lost
        return int(answer["unread"])

    async def _post_broadcast(self, group: str, body: bytes, key: str) -> Ack:
        path = f"{self._url}/broadcast/{_in_path(group)}"
        headers = {"Idempotency-Key": key}
        answer = await _post(self._open_session(), path, body, headers, {"group", "seq", "at"})
        return Ack(answer["group"], answer["seq"], datetime.fromisoformat(answer["at"]), answer.get("epoch", ""))

    async def _open(self, query: str) -> ClientConnection:
        """Connect. Raise Lost or an AttError."""
        try:
            url = f"{self._url}/listen/me" + (query and f"?{query}")
            connection = self._connection = await ClientConnection.open(self._open_session(), url)
        except aiohttp.WSServerHandshakeError as error:
            raise _refused(self._url, error.status, error.headers or {}, {"detail": error.message}) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(self._url, error) from error
        return connection

    async def _resume(self, connection: ClientConnection, *, is_fresh: bool) -> None:
        """Resume from ``self.positions``. Raise Lost."""
        for group, seq in connection.groups.items():
            # In a group that the user joined while we were disconnected, 0 gives all events from the join on.
            self.positions.setdefault(group, seq if is_fresh else 0)
        current_first = sorted(self.positions, key=connection.groups.__contains__, reverse=True)
        await connection.resume({group: self.positions[group] for group in current_first[:RESUME_LIMIT]}, self.epoch)
        self.markers, self.unread, self.online = connection.markers, connection.unread, connection.online
        self.epoch = self.epoch or connection.epoch  # a later one comes after what it has lost
        self.connected.set()

    async def _disconnect(self) -> None:
        self.connected.clear()
        self.online = {}
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use the client in 'async with'")
        return self._session


def _now() -> float:
    return asyncio.get_running_loop().time()


def _in_path(group: str) -> str:
    if group in {"", ".", ".."}:
        raise errors.NoSuchGroup  # a URL cannot contain it either
    return quote(group, safe="")


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not the URL of a server, as in https://att.example")
    return url.rstrip("/")


def _check_token(token: str) -> str:
    """Return the token without space around it, which a file may have added. Raise ValueError if it is malformed."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ValueError("the token contains characters that are not allowed in a token")
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
    """Send by POST: see ``_send``."""
    return await _send(session, "POST", url, body, headers, members)


async def _send(  # noqa: PLR0913, PLR0917 - a request has as many parts
    session: aiohttp.ClientSession, method: str, url: str, body: bytes, headers: dict[str, str], members: set[str]
) -> dict[str, Any]:
    """Return the JSON object of the answer, which has these members. Raise Lost or the server's refusal."""
    headers = {"Content-Type": "application/json"} | headers
    try:
        async with (
            asyncio.timeout(REQUEST_TIMEOUT),
            session.request(method, url, data=body, headers=headers) as response,
        ):
            answer = await response.json(content_type=None) if "json" in response.content_type else {}
            found: dict[str, Any] = answer if isinstance(answer, dict) else {}
            if response.status in (200, 202) and members <= found.keys():
                return found
            raise _refused(url, response.status, response.headers, found)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _failure(url, error) from error


def _failure(url: str, error: Exception) -> Exception:
    """Return the error for a missing or unreadable answer."""
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.InvalidURL):
        return errors.AttError(
            f"No safe connection to the server at {_origin(url)} is possible: {describe_error(error)}."
        )
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return errors.AttError(_not_att(url, "something unreadable"))
    return Lost(
        f"the server at {_origin(url)} cannot be reached: {describe_error(error)}"
        " (is it running, and is the URL right?)"
    )


def _refused(url: str, status: int, headers: Mapping[str, str], problem: dict[str, Any]) -> Exception:
    """Return the error for an answer other than the expected one."""
    detail = problem.get("detail", "")
    if status in _RETRIED:
        hint = headers.get("Retry-After", "")
        return Lost(detail or f"the server answered {status}", float(hint) if hint.isdecimal() else 0.0, status)
    if status in _NEVER_ATT and problem.get("error", "not found") == "not found":
        kind = errors.NotFound if status == 404 else errors.AttError
        return kind(_not_att(url, str(status)))
    if "error" in problem:
        return refusal(problem["error"], detail)
    if status in _ERROR_BY_STATUS:
        return _ERROR_BY_STATUS[status]()
    return errors.AttError(f"The server at {_origin(url)} answered {status}{detail and f': {detail}'}; check the URL.")


def _not_att(url: str, answer: str) -> str:
    return f"The server at {_origin(url)} is not att, or not at this path (it answered {answer}); check the URL."


def _origin(url: str) -> str:
    """Return the server of a URL, without a user and password in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
