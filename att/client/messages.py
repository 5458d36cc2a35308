"""The server's frames as events and answers, and its close codes and refusals as errors."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from msgspec import DecodeError, Raw, Struct, field
from msgspec.json import Decoder
from msgspec.structs import replace

from att import errors
from att.protocol.frames import CloseCode
from att.protocol.messages import SUBPROTOCOL

_TERMINAL = range(4500, 5000)  # close codes that mean: do not reconnect
_HINT = re.compile(r"; retry in ([0-9]{1,6}(?:\.[0-9]{1,6})?) s$")


class Message(NamedTuple):
    """A broadcast. ``body`` is a JSON object, byte for byte as sent; ``sender`` is None if SQL sent it.

    If the message has been taken back, ``body`` is ``null``.
    """

    group: str
    name: str
    seq: int
    sender: str | None
    at: datetime
    body: bytes

    @property
    def data(self) -> dict[str, Any] | None:
        """Return ``body`` as a dictionary; None if the message has been taken back."""
        data: dict[str, Any] | None = json.loads(self.body)
        return data


class Profile(Struct, frozen=True):
    """A user as fellow members see them: all but the id is None if the account is deleted."""

    id: str
    login: str | None = None
    first_name: str | None = None
    last_name: str | None = None


class Joined(NamedTuple):
    """Event that a user has become a member. ``profile`` is None if the server is older than profiles."""

    group: str
    name: str
    seq: int
    user: str
    at: datetime
    profile: Profile | None = None


class Left(NamedTuple):
    """Event that a user is no longer a member. After one's own, no event of the group follows.

    ``removed`` is False if they left by themselves, None if the server does not say. ``by`` is None for SQL.
    """

    group: str
    name: str
    seq: int
    user: str
    at: datetime
    removed: bool | None = None
    by: str | None = None


class Changed(NamedTuple):
    """Event that the group has another name or other rules: those given here. ``by`` is None for SQL."""

    group: str
    name: str
    seq: int
    by: str | None
    at: datetime
    join: str
    post: str
    retention: int
    history: str


class RoleChanged(NamedTuple):
    """Event that a member is an owner now, or a plain member. ``by`` is None for SQL."""

    group: str
    name: str
    seq: int
    user: str
    role: str
    by: str | None
    at: datetime


class Redacted(NamedTuple):
    """Event that the message with the seq ``of`` has been taken back: forget it. ``by`` is None for SQL."""

    group: str
    name: str
    seq: int
    of: int
    by: str | None
    at: datetime


class EphemeralMessage(NamedTuple):
    """A message that no log keeps. ``body`` is a JSON object, byte for byte as sent."""

    group: str
    sender: str
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        """Return ``body`` as a dictionary."""
        data: dict[str, Any] = json.loads(self.body)
        return data


class Online(Struct, frozen=True):
    """The connected members of a group: since when, by the user's id. In a large group ``users`` is None."""

    group: str
    count: int
    users: dict[str, datetime] | None

    def changed(self, user: str, *, is_online: bool) -> "Online":
        """Return who is online after a user has come or gone. The moment of a coming is now."""
        if self.users is None:
            return self
        users = {each: since for each, since in self.users.items() if each != user}
        if is_online:
            users[user] = self.users.get(user, datetime.now(UTC))
        return Online(self.group, len(users), users)


class Gap(NamedTuple):
    """Notice that the events from ``first`` to ``seq`` are no longer kept."""

    group: str
    name: str
    first: int
    seq: int


class Rewind(NamedTuple):
    """Notice that the log has lost the events above ``seq``, by a failover or a restore: forget them."""

    group: str
    name: str
    seq: int


Event = Message | Joined | Left | Changed | RoleChanged | Redacted | Gap | Rewind


class NewEpoch(NamedTuple):
    """Notice that positions are of this epoch from here on."""

    epoch: str


class Ack(NamedTuple):
    """Position of a broadcast in the group's log. ``epoch`` is empty if the server is older than epochs."""

    group: str
    seq: int
    at: datetime
    epoch: str = ""


class Lost(Exception):
    """A failure that may succeed the next time, after ``hint`` seconds if the server has said when.

    ``status`` is the status of the HTTP answer.
    """

    def __init__(self, reason: str, hint: float = 0.0, status: int | None = None) -> None:
        self.hint = hint
        self.status = status
        super().__init__(reason)


_REFUSALS: dict[str, type[errors.AttError]] = {
    kind.code: kind
    for kind in (
        errors.AuthFailed,
        errors.Forbidden,
        errors.Invalid,
        errors.KeyReused,
        errors.Malformed,
        errors.NoSuchGroup,
        errors.NotAMember,
        errors.NotAnObject,
        errors.NotAnOwner,
        errors.NotFound,
        errors.NotJson,
        errors.NotPermitted,
        errors.NotSignedIn,
        errors.NotYou,
        errors.SessionEnded,
    )
}
TRY_AGAIN = {
    kind.code
    for kind in (
        errors.Unavailable,
        errors.DatabaseUnavailable,
        errors.RedisUnavailable,
        errors.Busy,
        errors.ShuttingDown,
    )
}


class GroupStanding(Struct):
    """Last seq of a group, the user's read marker and the number of unread messages, from hello."""

    id: str
    seq: int
    read: int = 0
    unread: int | None = None


class UserOnline(Struct):
    """A connected user, from presence."""

    user: str
    since: datetime


class Frame(Struct):
    """Any frame of the server. Members that its type does not have keep their defaults."""

    type: str
    group: str = ""
    name: str = ""
    seq: int = 0
    user: str | Profile = ""
    origin: str | int | None = field(default=None, name="from")
    to: int = 0
    at: datetime = datetime.fromtimestamp(0, UTC)
    data: Raw = Raw(b"{}")
    epoch: str = ""
    id: str | int | None = None
    error: str = ""
    detail: str = ""
    user_id: str = ""
    heartbeat: float = 25.0
    removed: bool | None = None
    by: str | None = None
    of: int = 0
    role: str = ""
    join: str = ""
    post: str = ""
    retention: int = 0
    history: str = "since_join"
    groups: list[GroupStanding] = []
    users: list[UserOnline] | None = None
    count: int = 0


class _Any(Struct):
    type: str


_DECODER, _ANY = Decoder(Frame), Decoder(_Any)


def _profile(frame: Frame) -> Profile | None:
    return frame.user if isinstance(frame.user, Profile) else None


def _user_id(frame: Frame) -> str:
    return frame.user.id if isinstance(frame.user, Profile) else frame.user


_EVENTS: Mapping[str, Callable[[Frame], Event]] = MappingProxyType(
    {
        "message": lambda frame: Message(
            frame.group,
            frame.name,
            frame.seq,
            frame.origin if isinstance(frame.origin, str) else None,
            frame.at,
            bytes(frame.data),
        ),
        "joined": lambda frame: Joined(frame.group, frame.name, frame.seq, _user_id(frame), frame.at, _profile(frame)),
        "left": lambda frame: Left(
            frame.group, frame.name, frame.seq, _user_id(frame), frame.at, frame.removed, frame.by
        ),
        "changed": lambda frame: Changed(
            frame.group,
            frame.name,
            frame.seq,
            frame.by,
            frame.at,
            frame.join,
            frame.post,
            frame.retention,
            frame.history,
        ),
        "role": lambda frame: RoleChanged(
            frame.group, frame.name, frame.seq, _user_id(frame), frame.role, frame.by, frame.at
        ),
        "redacted": lambda frame: Redacted(frame.group, frame.name, frame.seq, frame.of, frame.by, frame.at),
        "gap": lambda frame: Gap(frame.group, frame.name, int(frame.origin or 0), frame.to),
        "rewind": lambda frame: Rewind(frame.group, frame.name, frame.to),
    }
)
_KNOWN = {*_EVENTS, "ephemeral", "presence", "online", "offline", "hello", "read", "epoch", "ack", "error", "pong"}


def read(text: str) -> Frame:
    """Parse a frame of the server; of an unknown one only the type. Raise ProtocolError if it is malformed."""
    try:
        return _DECODER.decode(text)
    except (DecodeError, RecursionError) as error:
        with contextlib.suppress(DecodeError, RecursionError):
            if (kind := _ANY.decode(text).type) not in _KNOWN:
                return Frame(kind)
        with contextlib.suppress(DecodeError, RecursionError, ValueError):
            if isinstance(members := json.loads(text), dict):
                return _read_leniently(members)
        raise errors.ProtocolError(f"The server sent a frame that is not one of {SUBPROTOCOL}: {error}.") from error


def _read_leniently(members: dict[str, Any]) -> Frame:
    """Parse a frame whose data has a lone surrogate, which SQL could once send and msgspec refuses."""
    data = members.pop("data", {})
    return replace(_DECODER.decode(json.dumps(members)), data=Raw(json.dumps(data).encode()))


def event_of(frame: Frame) -> Event | None:
    """Return the event in a frame; None if the frame has none or its type is unknown."""
    build = _EVENTS.get(frame.type)
    return None if build is None else build(frame)


def ephemeral_of(frame: Frame) -> EphemeralMessage:
    """Return the message in an ephemeral frame."""
    return EphemeralMessage(frame.group, str(frame.origin), bytes(frame.data))


def online_of(frame: Frame) -> Online:
    """Return the state in a presence frame."""
    users = None if frame.users is None else {each.user: each.since for each in frame.users}
    return Online(frame.group, frame.count if users is None else len(users), users)


def refusal(code: str, detail: str) -> errors.AttError:
    """Return the error with this code."""
    return _REFUSALS[code](detail) if code in _REFUSALS else errors.AttError(f"{code}: {detail}")


def close_error(code: int | None, reason: str) -> Exception:
    """Return the error for a close code: Lost, or an AttError if reconnecting cannot help."""
    if code not in _TERMINAL:
        hint = _HINT.search(reason)
        return Lost(f"the connection was closed ({code}): {reason or 'no reason given'}", float(hint[1]) if hint else 0)
    if code == CloseCode.SESSION_ENDED:
        return errors.SessionEnded()
    if code == CloseCode.PROTOCOL_ERROR:
        return errors.ProtocolError(f"The server did not understand: {reason}.")
    if code == CloseCode.FORBIDDEN:
        kind, _, detail = reason.partition(": ")
        return refusal(kind, detail)
    return errors.AttError(f"The server has closed the connection for good ({code}): {reason}.")
