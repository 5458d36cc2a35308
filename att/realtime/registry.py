"""Index of this node's listeners by user and session. No loop, no socket, no database."""

import time
from collections import defaultdict
from collections.abc import Set as AbstractSet
from enum import IntEnum
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from att.groups.read_markers import MarkerPosition
from att.protocol.frames import CloseCode


class Dialect(IntEnum):
    """A listener's dialect: plain messages as they were sent, or every frame of att.v1."""

    PLAIN = 0
    V1 = 1


class ListenerConnection(Protocol):
    """The connection of a listener."""

    def send(self, frame: bytes) -> bool:
        """Send a frame without waiting. Return False if the connection is closing or too slow."""

    def send_if_room(self, frame: bytes) -> bool:
        """Send a frame likewise, unless so much waits that the connection may be closed as too slow."""

    def replay(self, frame: bytes) -> None:
        """Send a frame of a page, which was read at the listener's pace."""

    def close(self, code: CloseCode, reason: bytes = b"") -> None:
        """Begin to close the connection, without waiting. The default reason is the code's own."""


class Encoding(IntEnum):
    """How a connection writes frames: as they are, those of messages deflated, or as server-sent events."""

    PLAIN = 0
    DEFLATED = 1
    EVENTS = 2


class Recipients(tuple[ListenerConnection, ...]):  # noqa: SLOT001 - it has an attribute
    """Connections that receive the same frames. ``known`` belongs to the function that sends to them all."""

    known: Any = None


class Span(NamedTuple):
    """The first and the last seq by which a user joined a group within some time."""

    first: int
    last: int

    def widened(self, seq: int) -> "Span":
        """Return a span that also covers this seq."""
        return Span(min(self.first, seq), max(self.last, seq))


class Listener:
    """One open socket of a user under a session, opened at ``since`` by ``time.monotonic``.

    It hears only the groups in ``only``, or all if that is None. The other fields belong to the hub. ``groups`` are
    those whose streams it is placed in. ``left`` maps groups that its user has left, or was not a member of when the
    positions were read, to that seq. ``joined`` maps groups that its user joined before it was started to their seqs,
    and ``markers`` groups to the highest of their read markers that has come since the socket was opened.
    """

    __slots__ = (
        "connection",
        "dialect",
        "encoding",
        "groups",
        "is_started",
        "joined",
        "left",
        "markers",
        "only",
        "session_id",
        "since",
        "user_id",
    )

    def __init__(
        self,
        user_id: UUID,
        session_id: UUID,
        connection: ListenerConnection,
        dialect: Dialect = Dialect.PLAIN,
        encoding: Encoding = Encoding.PLAIN,
    ) -> None:
        self.user_id = user_id
        self.session_id = session_id
        self.connection = connection
        self.dialect = dialect
        self.encoding = encoding
        self.since = time.monotonic()
        self.groups: set[UUID] = set()
        self.left: dict[UUID, int] = {}
        self.joined: dict[UUID, Span] = {}
        self.markers: dict[UUID, MarkerPosition] = {}
        self.only: AbstractSet[UUID] | None = None
        self.is_started = False

    def wants(self, group_id: UUID) -> bool:
        """Return True if the listener is to hear this group."""
        return self.only is None or group_id in self.only

    def is_new_to(self, group_id: UUID, seq: int) -> bool:
        """Return True if the listener does not know of its user's joining with this seq."""
        is_known = group_id in self.groups or seq <= self.left.get(group_id, 0)
        return not self.is_started or (self.wants(group_id) and not is_known)


_NOBODY: AbstractSet[Listener] = frozenset()


class Registry:
    """The listeners of this node. ``sockets`` counts them by dialect.

    Empty sets are deleted, so a detached listener leaves only its user in ``take_changed``.
    """

    def __init__(self) -> None:
        self.sockets = dict.fromkeys(Dialect, 0)
        self._users: defaultdict[UUID, set[Listener]] = defaultdict(set)
        self._sessions: defaultdict[UUID, set[Listener]] = defaultdict(set)
        self._changed: set[UUID] = set()

    def __len__(self) -> int:
        return sum(len(listeners) for listeners in self._users.values())

    def attach(self, listener: Listener) -> None:
        """Add a listener."""
        self.sockets[listener.dialect] += listener not in self
        self._users[listener.user_id].add(listener)
        self._sessions[listener.session_id].add(listener)
        self._changed.add(listener.user_id)

    def detach(self, listener: Listener) -> None:
        """Remove a listener, if it is there."""
        self.sockets[listener.dialect] -= listener in self
        _discard(self._users, listener.user_id, listener)
        _discard(self._sessions, listener.session_id, listener)
        self._changed.add(listener.user_id)

    def __contains__(self, listener: Listener) -> bool:
        return listener in self._users.get(listener.user_id, _NOBODY)

    def users(self) -> list[UUID]:
        """Return the connected users."""
        return list(self._users)

    def started_users(self) -> list[UUID]:
        """Return the users with started listeners."""
        return [user_id for user_id, listeners in self._users.items() if any(each.is_started for each in listeners)]

    def take_changed(self) -> set[UUID]:
        """Return the users whose listeners have changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def connected(self, user_id: UUID) -> tuple[float, int] | None:
        """Return the start by ``time.monotonic`` and the number of the user's listeners, or None."""
        listeners = self._users.get(user_id)
        return (min(listener.since for listener in listeners), len(listeners)) if listeners else None

    def of_user(self, user_id: UUID) -> tuple[Listener, ...]:
        """Return a copy of the user's listeners, so that they may be detached during iteration."""
        return tuple(self._users.get(user_id, ()))

    def sessions(self) -> dict[UUID, UUID]:
        """Return the sessions that have listeners here, each with its user."""
        return {session_id: next(iter(listeners)).user_id for session_id, listeners in self._sessions.items()}

    def lacks(self, user_id: UUID, group_id: UUID) -> bool:
        """Return True if a started listener of the user wants this group, and is not placed in it.

        So it is if none is started: those that are about to be must learn of joinings after their positions were read.
        """
        started = [listener for listener in self._users.get(user_id, _NOBODY) if listener.is_started]
        return not started or any(each.wants(group_id) and group_id not in each.groups for each in started)

    def of_session(self, session_id: UUID) -> tuple[Listener, ...]:
        """Return the session's listeners."""
        return tuple(self._sessions.get(session_id, ()))

    def everyone(self) -> tuple[Listener, ...]:
        """Return all listeners."""
        return tuple(listener for listeners in self._users.values() for listener in listeners)


def _discard(index: defaultdict[UUID, set[Listener]], key: UUID, listener: Listener) -> None:
    listeners = index.get(key)
    if listeners is None:
        return
    listeners.discard(listener)
    if not listeners:
        del index[key]
