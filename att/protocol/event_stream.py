"""Frames of att.v1 as server-sent events, and their ids (https://html.spec.whatwg.org/multipage/server-sent-events.html).

An id is a position in the logs of all groups of a listener, in at most 1 KiB.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import Annotated, NamedTuple
from uuid import UUID

from msgspec import DecodeError, Meta, Struct
from msgspec.json import decode, encode
from msgspec.msgpack import Decoder as TokenDecoder, Encoder as TokenEncoder

from att.protocol.frames import FINAL_TEXT, FIRST_FRAGMENT, LAST_FRAGMENT, payload_of
from att.protocol.messages import EPOCH_PATTERN, SEQ_LIMIT

ID_LIMIT = 1024  # characters
NAMED_GROUPS = 25  # in one id, which so has at most 1,006 characters
COMMENT = b":\n\n"  # keeps proxies from ending a silent connection

_HINT = re.compile(rb"; retry in ([0-9]+) s$")
_NEWLINE = re.compile(rb"\r\n|\r|\n")
_LOGGED = frozenset({b"message", b"joined", b"left", b"changed", b"role", b"redacted"})
_HEAD = re.compile(
    rb'\{"type":"(\w+)"(?:,"group":"([0-9a-f-]{36})")?(?:,"name":"(?:[^"\\]|\\.)*")?'
    rb'(?:,"seq":(\d+))?(?:,"from":\d+)?(?:,"to":(\d+))?'
)

_Seq = Annotated[int, Meta(ge=0, le=SEQ_LIMIT)]


class _Token(Struct, array_like=True, forbid_unknown_fields=True):
    epoch: Annotated[str, Meta(pattern=EPOCH_PATTERN)]
    since: Annotated[int, Meta(ge=0, le=2**53)]
    seqs: Annotated[dict[UUID, _Seq], Meta(max_length=NAMED_GROUPS)]


_TOKENS, _TOKEN = TokenEncoder(uuid_format="bytes"), TokenDecoder(_Token)


class EventId:
    """Position of a listener in all of its groups, of an epoch. ``seqs`` names the last seq of up to 25 groups.

    Of each other group, the listener has everything that was logged up to ``since``, in microseconds since 1970. If
    more came there, as ``is_crowded`` tells, it comes again with a resume. A group that is named stays so until
    ``since`` moves on.
    """

    def __init__(self, epoch: str, since: int = 0, seqs: Mapping[UUID, int] | None = None) -> None:
        self.epoch = epoch
        self.since = since
        self.seqs = dict(seqs or {})
        self.is_crowded = len(self.seqs) > NAMED_GROUPS
        if self.is_crowded:
            self.seqs = {}
        self._recent: dict[UUID, int] = {}  # the last positions that have changed

    def __str__(self) -> str:
        token = _TOKENS.encode(_Token(self.epoch, self.since, self.seqs))
        return urlsafe_b64encode(token).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> "EventId":
        """Return the position that an id stands for. Raise ValueError."""
        try:
            token = _TOKEN.decode(urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
        except (ValueError, DecodeError):
            raise ValueError("must be an id that this server has sent") from None
        found = cls(token.epoch, token.since, token.seqs)
        found.is_crowded = True  # the other groups are those of long ago
        return found

    def move(self, group_id: UUID, seq: int) -> None:
        """Note that the listener is sent a group's event with this seq, or what stands for it."""
        if group_id in self.seqs or len(self.seqs) < NAMED_GROUPS:
            self.seqs[group_id] = seq
        else:
            self.is_crowded = True
        self._recent.pop(group_id, None)
        self._recent[group_id] = seq
        if len(self._recent) > NAMED_GROUPS:
            del self._recent[next(iter(self._recent))]

    def take_recent(self) -> dict[UUID, int]:
        """Return the positions that have changed most recently since the last call."""
        recent, self._recent = self._recent, {}
        return recent

    def put_back(self, recent: Mapping[UUID, int]) -> None:
        """Undo ``take_recent``."""
        self._recent = dict([*{**recent, **self._recent}.items()][-NAMED_GROUPS:])

    def advance(self, since: int, behind: Mapping[UUID, int], recent: Mapping[UUID, int]) -> bool:
        """Move ``since`` on: the listener has all that was logged up to then, but for the groups that are behind.

        ``recent`` has the positions that have changed since then. Return False if too many groups are behind.
        """
        if len(behind) > NAMED_GROUPS:
            return False
        changed = {**recent, **self._recent}
        named = {group_id: changed.get(group_id, self.seqs.get(group_id, seq)) for group_id, seq in behind.items()}
        rest = ((group_id, seq) for group_id, seq in reversed(changed.items()) if group_id not in named)
        self.since = since
        self.is_crowded = len(named.keys() | changed.keys()) >= NAMED_GROUPS  # then there may be more
        self.seqs = named | dict(islice(rest, NAMED_GROUPS - len(named)))
        return True


class _Head(NamedTuple):
    """The type of a frame, and the position that it tells: a group's, unless ``seq`` is None."""

    type: str
    group: str
    seq: int | None


def _head_of(payload: bytes) -> _Head:
    """Read the first members of a frame; its data may be JSON that not every parser takes."""
    found = _HEAD.match(payload)
    if found is None:
        raise ValueError("a frame without a type")
    kind, group, seq, to = found.groups(b"")
    told = seq if kind in _LOGGED else to
    return _Head(kind.decode(), group.decode(), int(told) if told else None)


@lru_cache(maxsize=1)  # a frame is sent to many listeners, one after the other
def _event_of(frame: bytes) -> tuple[bytes, _Head]:
    """Return an event without its id, and without its end."""
    payload = payload_of(frame)
    head = _head_of(payload)
    return b"event: %s\ndata: %s\n" % (head.type.encode(), _NEWLINE.sub(b"\ndata: ", payload)), head


class EventStream:
    """Writes the frames for one listener as events, and keeps its position."""

    def __init__(self, position: EventId) -> None:
        self.position = position
        self.is_amid = False  # an event has begun, whose end is in a later fragment

    def event(self, frame: bytes) -> bytes:
        """Return the event of a frame, or the part of it that is in a fragment: a large hello comes in these."""
        if frame[0] != FINAL_TEXT:
            self.is_amid = frame[0] != LAST_FRAGMENT
            head = b"event: hello\ndata: " if frame[0] == FIRST_FRAGMENT else b""
            end = b"\n" + self._id() + b"\n" if frame[0] == LAST_FRAGMENT else b""
            return head + payload_of(frame) + end
        text, facts = _event_of(frame)
        if facts.seq is not None:
            self.position.move(UUID(facts.group), facts.seq)
        elif facts.type == "epoch":
            self.position.epoch = decode(payload_of(frame))["epoch"]
        elif facts.type != "hello":
            return text + b"\n"
        return text + self._id() + b"\n"

    def _id(self) -> bytes:
        return b"id: %s\n" % str(self.position).encode()


def close_event(code: int, reason: bytes) -> bytes:
    """Return the last event, with the code and the reason of a close frame. A hint of the reason is for EventSource."""
    hint = _HINT.search(reason)
    retry = b"retry: %d\n" % (int(hint[1]) * 1000) if hint else b""
    return b"%sevent: close\ndata: %s\n\n" % (retry, encode({"code": code, "reason": reason.decode()}))


def chunk(data: bytes) -> bytes:
    """Return a chunk of a body in HTTP/1.1 (RFC 9112, section 7.1). An empty one is the last."""
    return b"%x\r\n%s\r\n" % (len(data), data)
