"""What a run leaves behind: the log, what each listener has heard of it, and what its senders were told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


class Frame(NamedTuple):
    """An event as an att.v1 listener heard it. The kind ``gap`` tells of events that are lost."""

    group_id: UUID
    seq: int
    kind: str
    user_id: UUID | None
    body: str | None


@dataclass
class Hearing:
    """What one att.v1 client has heard, over all its connections, each of which resumed where the last one ended.

    ``bases`` are the seqs above which it asked to hear each group (0 where none is given). ``standings`` are the groups
    and seqs that the server said its user was a member at.
    """

    name: str
    user_id: UUID
    bases: dict[UUID, int] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    standings: list[tuple[UUID, int]] = field(default_factory=list)


@dataclass
class PlainHearing:
    """What was heard on one plain connection, which was made at ``opened_at`` and may be open when the run ends."""

    name: str
    user_id: UUID
    opened_at: float
    bodies: list[str] = field(default_factory=list)
    is_open: bool = False


@dataclass
class Sending:
    """A message, each of which has a body of its own, and what came of it.

    ``user_id`` is None for SQL, which asks for no membership. ``acks`` are the seqs that were acknowledged;
    ``is_refused`` says that it was refused for good, before it could have got into the log.
    """

    group_id: UUID
    user_id: UUID | None
    body: str
    key: str | None
    acks: list[int] = field(default_factory=list)
    is_refused: bool = False


class Change(NamedTuple):
    """A user's joining or leaving that was acknowledged."""

    group_id: UUID
    user_id: UUID
    kind: str


@dataclass
class Evidence:
    """All of it. ``heads`` and ``members`` are the database's tables in the end; ``faults`` what nobody should see."""

    logs: Mapping[UUID, Sequence[Entry]]
    heads: Mapping[UUID, int]
    members: Mapping[UUID, set[UUID]]
    hearings: Sequence[Hearing] = ()
    plain_hearings: Sequence[PlainHearing] = ()
    sendings: Sequence[Sending] = ()
    changes: Sequence[Change] = ()
    faults: Sequence[str] = ()

    @property
    def deliveries(self) -> int:
        """How many messages were heard."""
        framed = sum(frame.kind == "message" for hearing in self.hearings for frame in hearing.frames)
        return framed + sum(len(hearing.bodies) for hearing in self.plain_hearings)
