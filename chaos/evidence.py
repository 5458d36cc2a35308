"""The evidence of a run: the log, what each listener received of it, and the answers that the senders got.

If a standby was promoted, the evidence also has the log of the database that it replaced, to its end.
"""

from collections.abc import Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID


class Entry(NamedTuple):
    """An event of the log. ``at`` is in seconds since 1970."""

    seq: int
    kind: str
    user_id: UUID | None
    body: str | None
    key: str | None
    at: float


class Position(NamedTuple):
    """A seq of an epoch."""

    seq: int
    epoch: str = ""


class Frame(NamedTuple):
    """An event as an att.v1 listener received it. The kind ``gap`` stands for events that are lost.

    The kind ``rewind`` tells it to forget what is above ``seq``; its ``body`` is the epoch that the listener has named.
    """

    group_id: UUID
    seq: int
    kind: str
    user_id: UUID | None
    body: str | None


class Heard(NamedTuple):
    """An ephemeral message as an att.v1 listener received it at ``at``, on its connection with this number.

    ``position`` is what the listener has of the group's log at that time, in the epoch of the connection.
    """

    group_id: UUID
    user_id: UUID
    body: str
    connection: int
    position: Position
    at: float


class Opening(NamedTuple):
    """The beginning of a connection, before the first of its frames, whose index in the record is ``frame``."""

    frame: int
    at: float


class Read(NamedTuple):
    """A read marker as a listener was told it: by hello if ``is_greeting``, which counts as new for the connection."""

    group_id: UUID
    seq: int
    is_greeting: bool = False


@dataclass
class ListenerRecord:
    """Frames that one att.v1 client received, over all its connections, each of which resumed where the last ended.

    ``bases`` are the seqs above which it asked for each group (0 where none is given). ``standings`` are the groups and
    positions at which the server said that its user was a member, ``reads`` the user's read markers. If it
    ``is_parsed``, the bodies are the same JSON written anew.
    """

    name: str
    user_id: UUID
    bases: dict[UUID, int] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    standings: list[tuple[UUID, Position]] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    is_parsed: bool = False


@dataclass
class PlainRecord:
    """Bodies received on one plain connection, opened at ``opened_at``; it may be open when the run ends."""

    name: str
    user_id: UUID
    opened_at: float
    bodies: list[str] = field(default_factory=list)
    is_open: bool = False


@dataclass
class Sending:
    """A message, with a unique body, and its result.

    ``user_id`` is None for SQL, which needs no membership. ``acks`` are the acknowledged positions; ``is_refused`` says
    that it was refused for good, before it could be in the log.
    """

    group_id: UUID
    user_id: UUID | None
    body: str
    key: str | None
    acks: list[Position] = field(default_factory=list)
    is_refused: bool = False


@dataclass
class Ephemeral:
    """An ephemeral message, with a unique body. ``is_refused`` says that its sender was no member."""

    group_id: UUID
    user_id: UUID
    body: str
    sent_at: float
    is_refused: bool = False


class Redaction(NamedTuple):
    """A message that was taken back, which was acknowledged at ``at``."""

    group_id: UUID
    seq: int
    at: float


class Change(NamedTuple):
    """A user's join or leave that was acknowledged at ``at``."""

    group_id: UUID
    user_id: UUID
    kind: str
    at: float = 0.0


class Stored(NamedTuple):
    """The tables of a database in its end. ``epochs`` are those that it knows, ``markers`` those of users in groups."""

    logs: Mapping[UUID, Sequence[Entry]]
    heads: Mapping[UUID, int]
    members: Mapping[UUID, set[UUID]]
    epochs: AbstractSet[str] = frozenset()
    markers: Mapping[tuple[UUID, UUID], int] = MappingProxyType({})


@dataclass
class Evidence:
    """All evidence. ``lost`` is the database that a standby replaced; ``faults`` should never happen.

    ``markings`` are the highest acknowledged read markers of users in groups.
    """

    stored: Stored
    lost: Stored | None = None
    records: Sequence[ListenerRecord] = ()
    plain_records: Sequence[PlainRecord] = ()
    sendings: Sequence[Sending] = ()
    ephemerals: Sequence[Ephemeral] = ()
    redactions: Sequence[Redaction] = ()
    markings: Mapping[tuple[UUID, UUID], int] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    faults: Sequence[str] = ()

    @property
    def deliveries(self) -> int:
        """The number of messages received."""
        framed = sum(frame.kind == "message" for record in self.records for frame in record.frames)
        return framed + sum(len(record.bodies) for record in self.plain_records)

    @property
    def heard(self) -> int:
        """The number of ephemeral messages received."""
        return sum(len(record.heard) for record in self.records)
