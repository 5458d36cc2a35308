"""The frames of att.v1, as described in docs/reference/realtime.md: builds the server's, parses the client's.

The bytes of ``data`` are never changed: a broadcast is cut out of the client's frame, and put into the server's frames.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, NamedTuple, Protocol, TypeVar, cast
from uuid import UUID

from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType
from msgspec.json import Decoder, encode

from att.core import json_text
from att.core.names import check_key, check_printable, parse_uuid
from att.errors import AttError, InvalidFrame, ProtocolError, QuotaExceeded, QuotaExhausted

SUBPROTOCOL = "att.v1"
BEARER_PREFIX = "att.bearer."  # prefix of the subprotocol that carries a token
RESUME_LIMIT = 10_000  # groups in one resume
ID_LENGTH = 200
GROUP_LENGTH = 256  # a name has 64 characters, each of up to four before normalization
SEQ_LIMIT = 2**63 - 1
EPOCH_PATTERN = "^[!-~]{1,64}$"

PONG = b'{"type":"pong"}'

FrameId = str | int
_ReadId = Annotated[str, Meta(max_length=ID_LENGTH)] | Annotated[int, Meta(ge=-SEQ_LIMIT, le=SEQ_LIMIT)]
_T = TypeVar("_T")


# Frames of the server


class GroupPosition(Protocol):
    """A group of a listener, and the last seq of its log."""

    @property
    def group_id(self) -> UUID: ...
    @property
    def name(self) -> str: ...
    @property
    def seq(self) -> int: ...


class Entry(GroupPosition, Protocol):
    """One event of a log."""

    @property
    def kind(self) -> str: ...
    @property
    def user_id(self) -> UUID | None: ...
    @property
    def at(self) -> datetime: ...
    @property
    def body(self) -> bytes: ...
    @property
    def person(self) -> tuple[str, str, str] | None: ...


def hello(user_id: UUID, session_id: UUID, heartbeat: float, epoch: str, groups: Iterable[GroupPosition]) -> bytes:
    """Return the first frame for a listener."""
    positions = [{"id": group.group_id, "name": group.name, "seq": group.seq} for group in groups]
    head = {"type": "hello", "user_id": user_id, "session_id": session_id, "heartbeat": heartbeat, "epoch": epoch}
    return encode(head | {"groups": positions})


def event(event: Entry) -> bytes:
    """Return the frame of an event, the same for all listeners."""
    # The facts of a change have the name that the group got by it, which may not be the present one.
    group = f'"group":"{event.group_id}"' if event.kind == "changed" else _group(event.group_id, event.name)
    head = f'{{"type":"{event.kind}",{group},"seq":{event.seq}'
    user = "null" if event.user_id is None else f'"{event.user_id}"'
    if event.kind == "joined":
        login, first_name, last_name = event.person or (None, None, None)
        profile = {"id": event.user_id, "login": login, "first_name": first_name, "last_name": last_name}
        user = encode(profile).decode()
    if event.kind == "message":
        head = f'{head},"from":{user},"at":"{timestamp(event.at)}","data":'
        return b"".join((head.encode(), event.body, b"}"))
    head = f'{head},"user":{user}' if event.kind in ("joined", "left") else head
    head = f'{head},"at":"{timestamp(event.at)}"'
    return head.encode() + (b"," + event.body.removeprefix(b"{") if event.body else b"}")


def gap(group_id: UUID, name: str, first: int, last: int) -> bytes:
    """Return the frame for events that are no longer kept: the first and the last seq."""
    return f'{{"type":"gap",{_group(group_id, name)},"from":{first},"to":{last}}}'.encode()


def rewind(group_id: UUID, name: str, to: int) -> bytes:
    """Return the frame for events above this seq that the log has lost."""
    return f'{{"type":"rewind",{_group(group_id, name)},"to":{to}}}'.encode()


def epoch(epoch: str) -> bytes:
    """Return the frame that tells the epoch from here on."""
    return encode({"type": "epoch", "epoch": epoch})


def ack(id: FrameId, group_id: UUID, seq: int, at: datetime, epoch: str) -> bytes:  # noqa: A002 - the frame calls it so
    """Return the frame that confirms a broadcast."""
    return encode({"type": "ack", "id": id, "group": group_id, "seq": seq, "at": timestamp(at), "epoch": epoch})


def error(id: FrameId | None, error: AttError) -> bytes:  # noqa: A002 - the frame calls it so
    """Return the frame that refuses a broadcast."""
    frame: dict[str, object] = {"type": "error", "id": id, "error": error.code, "detail": error.detail}
    if isinstance(error, QuotaExceeded | QuotaExhausted):
        frame["quota"] = error.quota
    if isinstance(error, QuotaExhausted):
        frame["retry_after"] = error.retry_after
    return encode(frame)


def timestamp(at: datetime) -> str:
    """Return the moment in RFC 3339: in UTC, with microseconds."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _group(group_id: UUID, name: str) -> str:
    return f'"group":"{group_id}","name":{encode(name).decode()}'


# Frames of the client


class _Frame(Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    pass


class Ping(_Frame, frozen=True, tag="ping"):
    """Request for a pong."""


class Resume(NamedTuple):
    """The first frame: the last seq received of each group. Other groups start with new events.

    The seqs are of the epoch; of the one in hello if it is None.
    """

    groups: dict[UUID, int]
    epoch: str | None = None


class Broadcast(NamedTuple):
    """A message for a group, given by its id or its name."""

    id: FrameId
    group: UUID | str
    data: bytes
    key: str | None


class _Resume(_Frame, frozen=True, tag="resume"):
    groups: Annotated[dict[str, Annotated[int, Meta(ge=0, le=SEQ_LIMIT)]], Meta(max_length=RESUME_LIMIT)] = {}
    epoch: Annotated[str, Meta(pattern=EPOCH_PATTERN)] | UnsetType = UNSET


class _Broadcast(_Frame, frozen=True, tag="broadcast"):
    id: _ReadId
    group: Annotated[str, Meta(min_length=1, max_length=GROUP_LENGTH)]
    data: Raw
    key: str | UnsetType = UNSET


class _Answerable(Struct, frozen=True):
    """The part of an invalid frame that an answer needs."""

    id: _ReadId


_DECODER: Decoder[_Resume | _Broadcast | Ping] = Decoder(_Resume | _Broadcast | Ping)
_ANSWERABLE = Decoder(_Answerable)


def parse(text: str | bytes) -> Resume | Broadcast | Ping:
    """Parse a frame of the client. Raise ProtocolError if there is no such frame: InvalidFrame if it has an id."""
    text = text.removeprefix("\ufeff") if isinstance(text, str) else text.removeprefix(BOM_UTF8)
    try:
        frame = _DECODER.decode(text)
    except UnicodeError:
        raise ProtocolError("the frame is not UTF-8") from None
    except RecursionError:
        raise ProtocolError("the frame is nested too deeply") from None
    except DecodeError as error:
        raise _fault(text, str(error)) from None
    if isinstance(frame, Ping):
        return frame
    return _resume(frame) if isinstance(frame, _Resume) else _broadcast(frame)


def _fault(text: str | bytes, detail: str) -> ProtocolError:
    """Return the error for a text that is no frame."""
    try:
        return InvalidFrame(_ANSWERABLE.decode(text).id, detail)
    except (DecodeError, RecursionError):  # it is not JSON, no object, or has no id
        return ProtocolError(detail)


def _resume(frame: _Resume) -> Resume:
    groups = {parse_uuid(text): seq for text, seq in frame.groups.items()}
    if None in groups:
        raise ProtocolError("groups: each is named by its id, a UUID")
    return Resume(cast("dict[UUID, int]", groups), None if frame.epoch is UNSET else frame.epoch)


def _broadcast(frame: _Broadcast) -> Broadcast:
    data = bytes(frame.data)
    key = None if frame.key is UNSET else frame.key
    _named(frame.id, "group", check_printable, frame.group)
    _named(frame.id, "key", check_key, key)
    _named(frame.id, "data", check_object, data)
    return Broadcast(frame.id, parse_uuid(frame.group) or frame.group, data, key)


def check_object(data: bytes) -> None:
    """Raise TypeError if the JSON is not an object, ValueError if it is not JSON that ``POST /broadcast`` takes."""
    if not json_text.is_object(data):
        raise TypeError("must be an object")


def _named(frame_id: FrameId | None, member: str, check: Callable[[_T], object], value: _T | None) -> None:
    try:
        if value is not None:
            check(value)
    except (TypeError, ValueError) as error:
        raise InvalidFrame(frame_id, f"{member}: {error}") from None
