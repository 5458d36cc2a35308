"""How messages travel between nodes: those of one group that are pending at once, as bytes.

A version, the id of the node that rings, the head of the group, and the messages in MessagePack, whose bodies come out
byte for byte. Who may write on the channel may write anything, so what is read is checked as if a stranger had sent it.
Joinings and leavings do not travel: who may hear what is value by the database alone.
"""

from collections.abc import Iterable
from datetime import datetime
from struct import Struct
from typing import Annotated, NamedTuple
from uuid import UUID

from msgspec import DecodeError, Meta
from msgspec.msgpack import Decoder, Encoder
from pydantic_core import from_json

from att.realtime.brokers.postgres import HIGHEST
from att.realtime.event_log import LogEvent

VERSION = 1
HEADER = Struct("!B16sQ")


class _Message(NamedTuple):
    name: str
    seq: Annotated[int, Meta(gt=0, le=HIGHEST)]
    user_id: UUID | None
    at: Annotated[datetime, Meta(tz=True)]
    body: bytes


_ENCODER = Encoder(uuid_format="bytes")
_DECODER: Decoder[list[_Message]] = Decoder(list[_Message])


class DecodedAnnouncement(NamedTuple):
    """What came: from which node, which seq the group has reached, and messages of it."""

    sender: UUID
    head: int
    events: list[LogEvent]


def encode(sender: UUID, head: int, events: Iterable[LogEvent]) -> bytes:
    """The payload that tells of one group. The events are messages."""
    messages = [_Message(event.name, event.seq, event.user_id, event.at, event.body) for event in events]
    return HEADER.pack(VERSION, sender.bytes, head) + _ENCODER.encode(messages)


def decode(group_id: UUID, payload: bytes, *, own: UUID) -> DecodedAnnouncement:
    """What a payload tells; of a node's own only the head. Raises ValueError when it is none."""
    if len(payload) < HEADER.size:
        raise ValueError("it is cut off")
    version, sender, head = HEADER.unpack_from(payload)
    if version != VERSION or not 0 < head <= HIGHEST:
        raise ValueError("it is of another version")
    sender = UUID(bytes=sender)
    if sender == own:
        return DecodedAnnouncement(sender, head, [])
    try:
        messages = _DECODER.decode(memoryview(payload)[HEADER.size :])
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return DecodedAnnouncement(sender, head, [_event(group_id, message) for message in messages])


def _event(group_id: UUID, message: _Message) -> LogEvent:
    # Read as the body of a broadcast is, for it goes to listeners as it is.
    if not isinstance(from_json(message.body, allow_inf_nan=False, cache_strings=False), dict):
        raise ValueError("a message is no object")  # noqa: TRY004 - it is value as every other fault of the payload
    return LogEvent(group_id, message.name, message.seq, "message", message.user_id, message.at, message.body)
