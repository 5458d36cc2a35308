"""Binary format of announcements that carry messages of one group between nodes.

A version, who sent it, the head of the group, and the messages in MessagePack, with their bodies byte
for byte. Anyone with access to the channel may write to it, so payloads are checked as untrusted input. Joined and left
events are not sent: only the database decides who receives what.

Of the 16 bytes that say who sent it the first 8 are of the node's id, the others of a digest of the epoch. Servers of
0.2.0 send 16 bytes of their id, and only compare them with their own.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from struct import Struct
from typing import Annotated, NamedTuple
from uuid import UUID

from msgspec import DecodeError, Meta
from msgspec.msgpack import Decoder, Encoder
from pydantic_core import from_json

from att.realtime.brokers.postgres import HIGHEST
from att.realtime.ephemerals import Ephemeral
from att.realtime.event_log import LogEvent

VERSION, EPHEMERAL_VERSION = 1, 2
HEADER = Struct("!B8s8sQ")
EPHEMERAL_HEADER = Struct("!B8s")


class _Message(NamedTuple):
    name: str
    seq: Annotated[int, Meta(gt=0, le=HIGHEST)]
    user_id: UUID | None
    at: Annotated[datetime, Meta(tz=True)]
    body: bytes


_ENCODER = Encoder(uuid_format="bytes")
_DECODER: Decoder[list[_Message]] = Decoder(list[_Message])
_Seq = Annotated[int, Meta(ge=0, le=HIGHEST)]
_EPHEMERALS = Decoder(list[tuple[bytes, UUID, _Seq, _Seq, bytes]])


class DecodedAnnouncement(NamedTuple):
    """The tag of the epoch, the seq that the group has reached, and messages of it."""

    epoch_tag: bytes
    head: int
    events: list[LogEvent]


def epoch_tag(epoch: str) -> bytes:
    """Return the bytes that stand for an epoch in a payload."""
    return hashlib.sha256(epoch.encode()).digest()[:8]


def encode(sender: UUID, epoch: str, head: int, events: Iterable[LogEvent]) -> bytes:
    """Return the payload for one group. The events must be messages of the epoch."""
    messages = [_Message(event.name, event.seq, event.user_id, event.at, event.body) for event in events]
    return HEADER.pack(VERSION, sender.bytes[:8], epoch_tag(epoch), head) + _ENCODER.encode(messages)


def decode(group_id: UUID, payload: bytes, *, own: UUID) -> DecodedAnnouncement:
    """Decode a payload; of this node's own, only the head. Raise ValueError if it is malformed."""
    if len(payload) < HEADER.size:
        raise ValueError("the payload is cut off")
    version, sender, tag, head = HEADER.unpack_from(payload)
    if version != VERSION or not 0 < head <= HIGHEST:
        raise ValueError("the payload has another version")
    if sender == own.bytes[:8]:
        return DecodedAnnouncement(tag, head, [])
    try:
        messages = _DECODER.decode(memoryview(payload)[HEADER.size :])
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return DecodedAnnouncement(tag, head, [_event(group_id, message) for message in messages])


def encode_ephemerals(sender: UUID, ephemerals: Iterable[Ephemeral]) -> bytes:
    """Return the payload with ephemerals of one group, which has a version of its own."""
    rows = [(each.epoch_tag, each.user_id, each.seq, each.head, each.body) for each in ephemerals]
    return EPHEMERAL_HEADER.pack(EPHEMERAL_VERSION, sender.bytes[:8]) + _ENCODER.encode(rows)


def decode_ephemerals(group_id: UUID, payload: bytes, *, own: UUID) -> list[Ephemeral] | None:
    """Return the ephemerals of a payload, none of this node's own; None if it has events.

    Raise ValueError if it is malformed.
    """
    if len(payload) < EPHEMERAL_HEADER.size or payload[0] != EPHEMERAL_VERSION:
        return None
    if payload[1 : EPHEMERAL_HEADER.size] == own.bytes[:8]:
        return []
    try:
        rows = _EPHEMERALS.decode(memoryview(payload)[EPHEMERAL_HEADER.size :])
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    for *_, body in rows:
        _check_object(body)
    return [Ephemeral(tag, group_id, user_id, seq, head, body) for tag, user_id, seq, head, body in rows]


def _event(group_id: UUID, message: _Message) -> LogEvent:
    _check_object(message.body)
    return LogEvent(group_id, message.name, message.seq, "message", message.user_id, message.at, message.body)


def _check_object(body: bytes) -> None:
    """Check like the body of a broadcast, since listeners get it unchanged. Raise ValueError."""
    if not isinstance(from_json(body, allow_inf_nan=False, cache_strings=False), dict):
        raise ValueError("a message is not an object")  # noqa: TRY004 - every fault is a ValueError
