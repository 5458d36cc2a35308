"""The server's frames as events and answers, and its close codes and refusals as errors."""

import contextlib
import json
import re
from datetime import UTC, datetime
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
    """A broadcast. ``body`` is a JSON object, byte for byte as sent; ``sender`` is None if SQL sent it."""

    group: str
    name: str
    seq: int
    sender: str | None
    at: datetime
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        """Return ``body`` as a dictionary."""
        data: dict[str, Any] = json.loads(self.body)
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
    """Event that a user is no longer a member. After one's own, no event of the group follows."""

    group: str
    name: str
    seq: int
    user: str
    at: datetime


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


Event = Message | Joined | Left | Gap | Rewind


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
    """Last seq of a group, from hello."""

    id: str
    seq: int


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
    groups: list[GroupStanding] = []


class _Any(Struct):
    type: str


_DECODER, _ANY = Decoder(Frame), Decoder(_Any)
_KNOWN = {"hello", "message", "joined", "left", "gap", "rewind", "epoch", "ack", "error", "pong"}


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
    place = (frame.group, frame.name)
    match frame.type:
        case "message":
            sender = frame.origin if isinstance(frame.origin, str) else None
            return Message(*place, frame.seq, sender, frame.at, bytes(frame.data))
        case "joined":
            profile = frame.user if isinstance(frame.user, Profile) else None
            return Joined(*place, frame.seq, str(frame.user) if profile is None else profile.id, frame.at, profile)
        case "left":
            return Left(*place, frame.seq, str(frame.user), frame.at)
        case "gap":
            return Gap(*place, int(frame.origin or 0), frame.to)
        case "rewind":
            return Rewind(*place, frame.to)
    return None


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
