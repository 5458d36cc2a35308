"""Who is connected to this node: from user, from session and from group to listeners. No loop, no socket, no database.

A listener enters by ``attach`` before its groups are read from the database, and gets them by ``settle``. Joins and
leaves that come in between are applied at once and outweigh what the read found, since it may be older.
"""

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Protocol
from uuid import UUID

from att.realtime.frames import CloseCode


class Connection(Protocol):
    """What a listener is heard through."""

    def send(self, frame: bytes) -> bool:
        """Hand over a frame without waiting. False when it cannot be: the connection is closing or too slow."""

    def close(self, code: CloseCode) -> None:
        """Begin to close it, without waiting."""


class Listener:
    """One open socket of one user, under one session. Its fields belong to the registry."""

    __slots__ = ("connection", "groups", "session_id", "user_id")

    def __init__(self, user_id: UUID, session_id: UUID, connection: Connection) -> None:
        self.user_id = user_id
        self.session_id = session_id
        self.connection = connection
        self.groups: set[UUID] = set()


_NOBODY: AbstractSet[Listener] = frozenset()


class Registry:
    """The listeners of this node. An empty set takes no memory: what was detached leaves nothing behind."""

    def __init__(self) -> None:
        self._users: defaultdict[UUID, set[Listener]] = defaultdict(set)
        self._sessions: defaultdict[UUID, set[Listener]] = defaultdict(set)
        self._groups: defaultdict[UUID, set[Listener]] = defaultdict(set)
        self._unsettled: dict[Listener, set[UUID]] = {}  # and which groups their users have left since

    def __len__(self) -> int:
        return sum(len(listeners) for listeners in self._users.values())

    def attach(self, listener: Listener) -> None:
        """Add it, with no groups yet."""
        self._users[listener.user_id].add(listener)
        self._sessions[listener.session_id].add(listener)
        self._unsettled[listener] = set()

    def settle(self, listener: Listener, groups: Iterable[UUID]) -> None:
        """Give an attached listener the groups that were read, but for those that its user has left since."""
        left = self._unsettled.pop(listener, None)
        if left is None:
            return
        for group_id in groups:
            if group_id not in left:
                self._join(listener, group_id)

    def detach(self, listener: Listener) -> None:
        """Remove every trace of it. Harmless when it is not there."""
        self._unsettled.pop(listener, None)
        _discard(self._users, listener.user_id, listener)
        _discard(self._sessions, listener.session_id, listener)
        for group_id in listener.groups:
            _discard(self._groups, group_id, listener)
        listener.groups.clear()

    def join(self, group_id: UUID, user_id: UUID) -> None:
        """The user's listeners hear the group from now on."""
        for listener in self._users.get(user_id, _NOBODY):
            self._join(listener, group_id)

    def leave(self, group_id: UUID, user_id: UUID) -> None:
        """The user's listeners do not hear the group from now on."""
        for listener in self._users.get(user_id, _NOBODY):
            self._unsettled.get(listener, set()).add(group_id)
            listener.groups.discard(group_id)
            _discard(self._groups, group_id, listener)

    def drop(self, group_id: UUID) -> None:
        """Nobody hears the group from now on."""
        for left in self._unsettled.values():
            left.add(group_id)
        for listener in self._groups.pop(group_id, ()):
            listener.groups.discard(group_id)

    def of_group(self, group_id: UUID) -> tuple[Listener, ...]:
        """Who hears the group here; a copy, so that they may be detached while it is walked."""
        return tuple(self._groups.get(group_id, ()))

    def of_user(self, user_id: UUID) -> tuple[Listener, ...]:
        """The user's listeners here."""
        return tuple(self._users.get(user_id, ()))

    def of_session(self, session_id: UUID) -> tuple[Listener, ...]:
        """The session's listeners here."""
        return tuple(self._sessions.get(session_id, ()))

    def unsettled(self) -> tuple[Listener, ...]:
        """The listeners whose groups are still being read."""
        return tuple(self._unsettled)

    def everyone(self) -> tuple[Listener, ...]:
        """All listeners here."""
        return tuple(listener for listeners in self._users.values() for listener in listeners)

    def _join(self, listener: Listener, group_id: UUID) -> None:
        listener.groups.add(group_id)
        self._groups[group_id].add(listener)


def _discard(index: defaultdict[UUID, set[Listener]], key: UUID, listener: Listener) -> None:
    listeners = index.get(key)
    if listeners is None:
        return
    listeners.discard(listener)
    if not listeners:
        del index[key]
