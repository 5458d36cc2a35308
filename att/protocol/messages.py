"""The frames of att.v1, as described in docs/reference/realtime.md: builds the server's, parses the client's.

The bytes of ``data`` are never changed: a broadcast is cut out of the client's frame, and put into the server's frames.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, NamedTuple, Protocol, TypeVar, cast
from uuid import UUID

from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType
from msgspec.json import Decoder, encode

from att.core import json_text
from att.core.names import check_key, check_printable, parse_uuid
from att.core.tasks import at_once
from att.errors import AttError, InvalidFrame, ProtocolError, QuotaExceeded, QuotaExhausted

SUBPROTOCOL = "att.v1"
BEARER_PREFIX = "att.bearer."  # prefix of the subprotocol that carries a token
RESUME_LIMIT = 10_000  # groups in one resume
HELLO_PART = 500  # groups of hello that are encoded at once
ID_LENGTH = 200
GROUP_LENGTH = 256  # a name has 64 characters, each of up to four before normalization
SEQ_LIMIT = 2**63 - 1
EPHEMERAL_LIMIT = 4 * 1024  # bytes of one ephemeral message, which PostgreSQL carries in less than 8,000
EPOCH_PATTERN = "^[!-~]{1,64}$"

PONG = b'{"type":"pong"}'

FrameId = str | int
_ReadGroup = Annotated[str, Meta(min_length=1, max_length=GROUP_LENGTH)]
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


class OwnGroup(GroupPosition, Protocol):
    """A group in hello: the user's read marker, and the number of unread messages, None if they are not counted."""

    @property
    def read(self) -> int: ...
    @property
    def unread(self) -> int | None: ...


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


def hello(user_id: UUID, session_id: UUID, heartbeat: float, epoch: str, groups: Iterable[OwnGroup]) -> bytes:
    """Return the first frame for a listener."""
    return b"".join(hello_parts(user_id, session_id, heartbeat, epoch, groups))


def hello_parts(
    user_id: UUID, session_id: UUID, heartbeat: float, epoch: str, groups: Iterable[OwnGroup]
) -> Iterator[bytes]:
    """Yield the first frame for a listener in parts, of ``HELLO_PART`` groups each."""
    head = {"type": "hello", "user_id": user_id, "session_id": session_id, "heartbeat": heartbeat, "epoch": epoch}
    yield encode(head).removesuffix(b"}") + b',"groups":['
    positions, comma = iter(groups), b""
    while part := [*islice(positions, HELLO_PART)]:
        items = [
            {"id": group.group_id, "name": group.name, "seq": group.seq, "read": group.read, "unread": group.unread}
            for group in part
        ]
        yield comma + encode(items)[1:-1]
        comma = b","
    yield b"]}"


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


def ephemeral(group_id: UUID, user_id: UUID, data: bytes) -> bytes:
    """Return the frame of an ephemeral message."""
    head = f'{{"type":"ephemeral","group":"{group_id}","from":"{user_id}","data":'
    return b"".join((head.encode(), data, b"}"))


def gap(group_id: UUID, name: str, first: int, last: int) -> bytes:
    """Return the frame for events that are no longer kept: the first and the last seq."""
    return f'{{"type":"gap",{_group(group_id, name)},"from":{first},"to":{last}}}'.encode()


def rewind(group_id: UUID, name: str, to: int) -> bytes:
    """Return the frame for events above this seq that the log has lost."""
    return f'{{"type":"rewind",{_group(group_id, name)},"to":{to}}}'.encode()


def read(group_id: UUID, name: str, seq: int) -> bytes:
    """Return the frame that tells a user up to which seq they have read."""
    return f'{{"type":"read",{_group(group_id, name)},"seq":{seq}}}'.encode()


def presence(group_id: UUID, users: Iterable[tuple[UUID, datetime]]) -> bytes:
    """Return the frame for the connected members of a group, each with the time since when."""
    found = [{"user": user_id, "since": timestamp(since)} for user_id, since in users]
    return encode({"type": "presence", "group": group_id, "users": found})


def presence_count(group_id: UUID, count: int) -> bytes:
    """Return the frame for the number of connected members of a large group."""
    return f'{{"type":"presence","group":"{group_id}","count":{count}}}'.encode()


def online(group_id: UUID, user_id: UUID, *, is_online: bool) -> bytes:
    """Return the frame for a member who has connected, or is connected no more."""
    kind = "online" if is_online else "offline"
    return f'{{"type":"{kind}","group":"{group_id}","user":"{user_id}"}}'.encode()


def epoch(epoch: str) -> bytes:
    """Return the frame that tells the epoch from here on."""
    return encode({"type": "epoch", "epoch": epoch})


def ack(id: FrameId, group_id: UUID, seq: int, at: datetime, epoch: str) -> bytes:  # noqa: A002 - the frame calls it so
    """Return the frame that confirms a broadcast."""
    return encode({"type": "ack", "id": id, "group": group_id, "seq": seq, "at": timestamp(at), "epoch": epoch})


def ephemeral_ack(id: FrameId, group_id: UUID) -> bytes:  # noqa: A002 - the frame calls it so
    """Return the frame that confirms that an ephemeral message was sent."""
    return encode({"type": "ack", "id": id, "group": group_id})


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

    The seqs are of the epoch; of the one in hello if it is None. With ``presence`` the client is told who is connected.
    """

    groups: dict[UUID, int]
    epoch: str | None = None
    presence: bool = False


class Broadcast(NamedTuple):
    """A message for a group, given by its id or its name."""

    id: FrameId
    group: UUID | str
    data: bytes
    key: str | None


class EphemeralBroadcast(NamedTuple):
    """A message for the present listeners of a group, given by its id or its name. With an id it is confirmed."""

    id: FrameId | None
    group: UUID | str
    data: bytes


class MarkRead(NamedTuple):
    """The last event that the user has read of a group, given by its id or its name."""

    group: UUID | str
    seq: int


class _Resume(_Frame, frozen=True, tag="resume"):
    groups: Annotated[dict[str, Annotated[int, Meta(ge=0, le=SEQ_LIMIT)]], Meta(max_length=RESUME_LIMIT)] = {}
    epoch: Annotated[str, Meta(pattern=EPOCH_PATTERN)] | UnsetType = UNSET
    presence: bool = False


class _Broadcast(_Frame, frozen=True, tag="broadcast"):
    group: _ReadGroup
    data: Raw
    id: _ReadId | UnsetType = UNSET
    key: str | UnsetType = UNSET
    ephemeral: bool = False


class _MarkRead(_Frame, frozen=True, tag="read"):
    group: _ReadGroup
    seq: Annotated[int, Meta(ge=0, le=SEQ_LIMIT)]


class _Answerable(Struct, frozen=True):
    """The part of an invalid frame that an answer needs."""

    type: object = None
    id: _ReadId | UnsetType = UNSET
    ephemeral: object = False


_DECODER: Decoder[_Resume | _Broadcast | _MarkRead | Ping] = Decoder(_Resume | _Broadcast | _MarkRead | Ping)
_ANSWERABLE = Decoder(_Answerable)


ClientFrame = Resume | Broadcast | EphemeralBroadcast | MarkRead | Ping


def parse(text: str | bytes) -> ClientFrame:
    """Parse a frame of the client. Raise ProtocolError if there is no such frame: InvalidFrame if it has an id."""
    return at_once(parsing(text))


def parsing(text: str | bytes) -> Generator[None, None, ClientFrame]:
    """Do the work of ``parse`` step by step."""
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
    if isinstance(frame, _MarkRead):
        _named(None, "group", check_printable, frame.group)
        return MarkRead(parse_uuid(frame.group) or frame.group, frame.seq)
    return _resume(frame) if isinstance(frame, _Resume) else (yield from _broadcast(frame))


def _fault(text: str | bytes, detail: str) -> ProtocolError:
    """Return the error for a text that is no frame. An answer needs an id, but for frames that may have none."""
    try:
        found = _ANSWERABLE.decode(text)
    except (DecodeError, RecursionError):  # it is not JSON, or no object, or its id is none
        return ProtocolError(detail)
    if found.id is UNSET:
        needs_none = found.type == "read" or (found.type == "broadcast" and found.ephemeral is True)
        return InvalidFrame(None, detail) if needs_none else ProtocolError(detail)
    return InvalidFrame(found.id, detail)


def _resume(frame: _Resume) -> Resume:
    groups = {parse_uuid(text): seq for text, seq in frame.groups.items()}
    if None in groups:
        raise ProtocolError("groups: each is named by its id, a UUID")
    epoch = None if frame.epoch is UNSET else frame.epoch
    return Resume(cast("dict[UUID, int]", groups), epoch, frame.presence)


def _broadcast(frame: _Broadcast) -> Generator[None, None, Broadcast | EphemeralBroadcast]:
    data = bytes(frame.data)
    key = None if frame.key is UNSET else frame.key
    frame_id = None if frame.id is UNSET else frame.id
    if frame_id is None and not frame.ephemeral:
        raise ProtocolError("Object missing required field `id`")
    _named(frame_id, "group", check_printable, frame.group)
    group = parse_uuid(frame.group) or frame.group
    if frame_id is None or frame.ephemeral:
        _named(frame_id, "key", _check_no_key, key)
        _named(frame_id, "data", _check_small_object, data)
        return EphemeralBroadcast(frame_id, group, data)
    _named(frame_id, "key", check_key, key)
    try:
        is_object = yield from json_text.checking(data)
    except ValueError as error:
        raise InvalidFrame(frame_id, f"data: {error}") from None
    if not is_object:
        raise InvalidFrame(frame_id, "data: must be an object")
    return Broadcast(frame_id, group, data, key)


def _check_no_key(_key: str) -> None:
    raise ValueError("an ephemeral message takes none")


def _check_small_object(data: bytes) -> None:
    if len(data) > EPHEMERAL_LIMIT:
        raise ValueError(f"must have at most {EPHEMERAL_LIMIT} bytes if it is ephemeral")
    check_object(data)


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
