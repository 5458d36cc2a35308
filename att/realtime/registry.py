"""Who is connected to this node: from user and from session to listeners. No loop, no socket, no database."""

import time
from collections import defaultdict
from collections.abc import Set as AbstractSet
from enum import IntEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from att.protocol.frames import CloseCode


class Dialect(IntEnum):
    """What a listener understands: messages alone, as they were sent, or every frame of att.v1."""

    PLAIN = 0
    V1 = 1


class ListenerConnection(Protocol):
    """What a listener is heard through."""

    def send(self, frame: bytes) -> bool:
        """Hand over a frame without waiting. False when it cannot be: the connection is closing or too slow."""

    def replay(self, frame: bytes) -> None:
        """Hand over a frame of a page that was read at the pace at which the listener takes them."""

    def close(self, code: CloseCode, reason: bytes = b"") -> None:
        """Begin to close it, without waiting; the reason is the code's own if none is given."""


class Span(NamedTuple):
    """The first and the last seq by which a user joined a group within some time."""

    first: int
    last: int

    def widened(self, seq: int) -> "Span":
        """So that it holds this seq too."""
        return Span(min(self.first, seq), max(self.last, seq))


class Listener:
    """One open socket of one user, under one session, made at ``since`` by the clock of ``time.monotonic``.

    Its other fields belong to the hub. ``groups`` are those in whose tracks it has a place. ``left`` are those that its
    user has left, or was not in when that was read, and by which seq. ``joined``, kept until it is settled, are those
    that its user has joined meanwhile, and by which seqs.
    """

    __slots__ = ("connection", "dialect", "groups", "is_started", "joined", "left", "session_id", "since", "user_id")

    def __init__(
        self, user_id: UUID, session_id: UUID, connection: ListenerConnection, dialect: Dialect = Dialect.PLAIN
    ) -> None:
        self.user_id = user_id
        self.session_id = session_id
        self.connection = connection
        self.dialect = dialect
        self.since = time.monotonic()
        self.groups: set[UUID] = set()
        self.left: dict[UUID, int] = {}
        self.joined: dict[UUID, Span] = {}
        self.is_started = False

    def is_new_to(self, group_id: UUID, seq: int) -> bool:
        """Whether it does not know of a joining by its user with this seq."""
        return not self.is_started or (group_id not in self.groups and seq > self.left.get(group_id, 0))


_NOBODY: AbstractSet[Listener] = frozenset()


class Registry:
    """The listeners of this node. An empty set takes no memory: what was detached leaves nothing behind, but that its
    user is among those of ``take_changed``.

    ``sockets`` is how many there are, by dialect.
    """

    def __init__(self) -> None:
        self.sockets = dict.fromkeys(Dialect, 0)
        self._users: defaultdict[UUID, set[Listener]] = defaultdict(set)
        self._sessions: defaultdict[UUID, set[Listener]] = defaultdict(set)
        self._changed: set[UUID] = set()

    def __len__(self) -> int:
        return sum(len(listeners) for listeners in self._users.values())

    def attach(self, listener: Listener) -> None:
        """Add it."""
        self.sockets[listener.dialect] += listener not in self
        self._users[listener.user_id].add(listener)
        self._sessions[listener.session_id].add(listener)
        self._changed.add(listener.user_id)

    def detach(self, listener: Listener) -> None:
        """Remove it. Harmless when it is not there."""
        self.sockets[listener.dialect] -= listener in self
        _discard(self._users, listener.user_id, listener)
        _discard(self._sessions, listener.session_id, listener)
        self._changed.add(listener.user_id)

    def __contains__(self, listener: Listener) -> bool:
        return listener in self._users.get(listener.user_id, _NOBODY)

    def users(self) -> list[UUID]:
        """Who is connected."""
        return list(self._users)

    def take_changed(self) -> set[UUID]:
        """The users who have had listeners attached or detached since this was asked last."""
        changed, self._changed = self._changed, set()
        return changed

    def connected(self, user_id: UUID) -> tuple[float, int] | None:
        """Since when the user is connected, by the clock of ``time.monotonic``, and by how many listeners; or None."""
        listeners = self._users.get(user_id)
        return (min(listener.since for listener in listeners), len(listeners)) if listeners else None

    def of_user(self, user_id: UUID) -> tuple[Listener, ...]:
        """The user's listeners here; a copy, so that they may be detached while it is walked."""
        return tuple(self._users.get(user_id, ()))

    def sessions(self) -> dict[UUID, UUID]:
        """The sessions that have listeners here, each with its user."""
        return {session_id: next(iter(listeners)).user_id for session_id, listeners in self._sessions.items()}

    def memberships(self) -> dict[UUID, set[UUID]]:
        """The users who are settled, and the groups in which all their listeners have a place."""
        found: dict[UUID, set[UUID]] = {}
        for listener in self.everyone():
            if listener.is_started:
                found[listener.user_id] = found.get(listener.user_id, listener.groups) & listener.groups
        return found

    def of_session(self, session_id: UUID) -> tuple[Listener, ...]:
        """The session's listeners here."""
        return tuple(self._sessions.get(session_id, ()))

    def everyone(self) -> tuple[Listener, ...]:
        """All listeners here."""
        return tuple(listener for listeners in self._users.values() for listener in listeners)


def _discard(index: defaultdict[UUID, set[Listener]], key: UUID, listener: Listener) -> None:
    listeners = index.get(key)
    if listeners is None:
        return
    listeners.discard(listener)
    if not listeners:
        del index[key]
