"""What a client hears: the server's frames as events and answers, and what it means when there will be no more."""

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

_TERMINAL = range(4500, 5000)  # the close codes after which connecting again is of no use
_HINT = re.compile(r"; retry in ([0-9]{1,6}(?:\.[0-9]{1,6})?) s$")


class Message(NamedTuple):
    """A broadcast: ``body`` is a JSON object, byte for byte as it was sent. ``sender`` is None when SQL has sent it."""

    group: str
    name: str
    seq: int
    sender: str | None
    at: datetime
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        """What ``body`` says."""
        data: dict[str, Any] = json.loads(self.body)
        return data


class Joined(NamedTuple):
    """Somebody has become a member."""

    group: str
    name: str
    seq: int
    user: str
    at: datetime


class Left(NamedTuple):
    """Somebody is no member any more; when it is oneself, nothing follows in this group."""

    group: str
    name: str
    seq: int
    user: str
    at: datetime


class Gap(NamedTuple):
    """The events from the seq ``first`` to ``seq`` are no longer kept."""

    group: str
    name: str
    first: int
    seq: int


Event = Message | Joined | Left | Gap


class Ack(NamedTuple):
    """Where in the group's log a broadcast stands."""

    group: str
    seq: int
    at: datetime


class Lost(Exception):
    """It did not work this time, and may the next time: ``hint`` seconds from now, if the server has said when.

    ``status`` is that of the answer over HTTP.
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
    """Where the log of a group stands, as the greeting tells it."""

    id: str
    seq: int


class Frame(Struct):
    """Any frame of the server's; what is not its type's is as it is here."""

    type: str
    group: str = ""
    name: str = ""
    seq: int = 0
    user: str = ""
    origin: str | int | None = field(default=None, name="from")
    to: int = 0
    at: datetime = datetime.fromtimestamp(0, UTC)
    data: Raw = Raw(b"{}")
    id: str | int | None = None
    error: str = ""
    detail: str = ""
    user_id: str = ""
    heartbeat: float = 25.0
    groups: list[GroupStanding] = []


class _Any(Struct):
    type: str


_DECODER, _ANY = Decoder(Frame), Decoder(_Any)
_KNOWN = {"hello", "message", "joined", "left", "gap", "ack", "error", "pong"}


def read(text: str) -> Frame:
    """The frame that the server sent; of one that is not known only the type. Raises ProtocolError when it is none."""
    try:
        return _DECODER.decode(text)
    except (DecodeError, RecursionError) as error:
        with contextlib.suppress(DecodeError, RecursionError):
            if (kind := _ANY.decode(text).type) not in _KNOWN:
                return Frame(kind)
        with contextlib.suppress(DecodeError, RecursionError, ValueError):
            if isinstance(told := json.loads(text), dict):
                return _read_apart(told)
        raise errors.ProtocolError(f"The server sent what is no frame of {SUBPROTOCOL}: {error}.") from error


def _read_apart(told: dict[str, Any]) -> Frame:
    """A frame with data that the decoder refuses: a lone surrogate, which SQL could send before that was refused."""
    data = told.pop("data", {})
    return replace(_DECODER.decode(json.dumps(told)), data=Raw(json.dumps(data).encode()))


def event_of(frame: Frame) -> Event | None:
    """The event that a frame tells of; None for what tells of none, or is of a type that is not known."""
    place = (frame.group, frame.name)
    match frame.type:
        case "message":
            sender = frame.origin if isinstance(frame.origin, str) else None
            return Message(*place, frame.seq, sender, frame.at, bytes(frame.data))
        case "joined":
            return Joined(*place, frame.seq, frame.user, frame.at)
        case "left":
            return Left(*place, frame.seq, frame.user, frame.at)
        case "gap":
            return Gap(*place, int(frame.origin or 0), frame.to)
    return None


def refusal(code: str, detail: str) -> errors.AttError:
    """The error that a server names by its code."""
    return _REFUSALS[code](detail) if code in _REFUSALS else errors.AttError(f"{code}: {detail}")


def ending(code: int | None, reason: str) -> Exception:
    """What it means that the socket was closed: Lost, or an AttError when connecting again is of no use."""
    if code not in _TERMINAL:
        hint = _HINT.search(reason)
        return Lost(f"the connection was closed ({code}): {reason or 'no reason given'}", float(hint[1]) if hint else 0)
    if code == CloseCode.SESSION_ENDED:
        return errors.SessionEnded()
    if code == CloseCode.PROTOCOL_ERROR:
        return errors.ProtocolError(f"The server did not understand: {reason}.")
    return errors.AttError(f"The server has closed the connection for good ({code}): {reason}.")
