"""The frames of att.v1, defined again from their specification: everything else is refused."""

import json
import sys
from uuid import UUID

import msgspec

from chaos.evidence import Frame


class _Frame(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    pass


class _Group(msgspec.Struct, forbid_unknown_fields=True):
    id: UUID
    name: str
    seq: int
    read: int
    unread: int | None


class Hello(_Frame, tag="hello"):
    """The first frame."""

    user_id: UUID
    session_id: UUID
    heartbeat: float
    epoch: str
    groups: list[_Group]


class Message(_Frame, tag="message"):
    """A message."""

    group: UUID
    name: str
    seq: int
    from_: UUID | None = msgspec.field(name="from")
    at: str
    data: msgspec.Raw


class _Profile(msgspec.Struct, forbid_unknown_fields=True):
    id: UUID
    login: str | None
    first_name: str | None
    last_name: str | None


class Joined(_Frame, tag="joined"):
    """A user joined."""

    group: UUID
    name: str
    seq: int
    user: _Profile
    at: str


class Left(_Frame, tag="left"):
    """A user left."""

    group: UUID
    name: str
    seq: int
    user: UUID
    at: str
    removed: bool
    by: UUID | None


class _Fact(_Frame):
    group: UUID
    seq: int
    at: str
    by: UUID | None
    name: str


class Changed(_Fact, tag="changed"):
    """The group has another name or other rules."""

    join: str
    post: str
    retention: int
    history: str


class Role(_Fact, tag="role"):
    """A member has another role."""

    user: UUID
    role: str


class Redacted(_Fact, tag="redacted"):
    """A message was taken back."""

    of: int


class Gap(_Frame, tag="gap"):
    """Events that are no longer kept."""

    group: UUID
    name: str
    from_: int = msgspec.field(name="from")
    to: int


class Rewind(_Frame, tag="rewind"):
    """The log has lost what is above ``to``."""

    group: UUID
    name: str
    to: int


class Read(_Frame, tag="read"):
    """The user has read the group up to ``seq``."""

    group: UUID
    name: str
    seq: int


class Ephemeral(_Frame, tag="ephemeral"):
    """A message that is not in the log."""

    group: UUID
    from_: UUID = msgspec.field(name="from")
    data: msgspec.Raw


class Epoch(_Frame, tag="epoch"):
    """Positions are of another epoch from here on."""

    epoch: str


class Ack(_Frame, tag="ack"):
    """A broadcast is in the log, or an ephemeral one, which has no place there, was sent."""

    id: int
    group: UUID
    seq: int = 0
    at: str = ""
    epoch: str = ""


class Error(_Frame, tag="error"):
    """A broadcast is refused."""

    id: int | None
    error: str
    detail: str


Event = Message | Joined | Left | Changed | Role | Redacted
ServerFrame = Hello | Event | Gap | Rewind | Read | Ephemeral | Epoch | Ack | Error
DECODER: msgspec.json.Decoder[ServerFrame] = msgspec.json.Decoder(ServerFrame)


def parse(text: str) -> ServerFrame:
    """Return the frame. Raises msgspec.DecodeError if it is none."""
    return DECODER.decode(text)


def _facts(frame: Left | Changed | Role | Redacted) -> str:
    """Return the members of a frame that the log has as its body."""
    others = {"type", "group", "seq", "at"}
    others |= set() if isinstance(frame, Changed) else {"name"}
    others |= {"user"} if isinstance(frame, Left) else set()
    members = msgspec.to_builtins(frame)
    return json.dumps({name: members[name] for name in members.keys() - others}, sort_keys=True)


def event(frame: ServerFrame) -> Frame | None:
    """Return the event of the log in the frame, if there is one."""
    match frame:
        case Message():
            body = sys.intern(bytes(frame.data).decode())  # stored once for all listeners
            return Frame(frame.group, frame.seq, "message", frame.from_, None if body == "null" else body)
        case Joined():
            return Frame(frame.group, frame.seq, "joined", frame.user.id, None)
        case Left() | Changed() | Role() | Redacted():
            user_id = frame.user if isinstance(frame, Left) else None
            return Frame(frame.group, frame.seq, str(frame.__struct_config__.tag), user_id, _facts(frame))
        case Gap():
            return Frame(frame.group, frame.to, "gap", None, None)
        case _:
            return None
