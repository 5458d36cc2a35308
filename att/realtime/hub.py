"""Delivers: applies broadcasts and changes of membership to the listeners of this node."""

from collections.abc import Iterable
from uuid import UUID

from att.errors import ShuttingDown
from att.realtime.frames import CloseCode, text_frame
from att.realtime.registry import Listener, Registry


class Hub:
    """The registry, and what is sent to the listeners in it. It is the ``Audience`` of groups and of sessions."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._is_closing = False

    def attach(self, listener: Listener) -> None:
        """Let a listener in; it hears nothing before ``settle``. Raises ShuttingDown."""
        if self._is_closing:
            raise ShuttingDown
        self._registry.attach(listener)

    def settle(self, listener: Listener, groups: Iterable[UUID]) -> None:
        """Let it hear the groups that were read from the database after it was let in."""
        self._registry.settle(listener, groups)

    def detach(self, listener: Listener) -> None:
        """Let it go."""
        self._registry.detach(listener)

    def broadcast(self, group_id: UUID, body: bytes) -> int:
        """Send ``body`` to the group's listeners. How many sockets it was written to."""
        frame = text_frame(body)
        return sum(listener.connection.send(frame) for listener in self._registry.of_group(group_id))

    def joined(self, group_id: UUID, user_id: UUID) -> None:
        self._registry.join(group_id, user_id)

    def left(self, group_id: UUID, user_id: UUID) -> None:
        self._registry.leave(group_id, user_id)

    def dropped(self, group_id: UUID) -> None:
        self._registry.drop(group_id)

    def uncertain(self, group_id: UUID, user_id: UUID | None) -> None:
        """Have those who may or may not hear the group connect again, and so read what is true."""
        if user_id is None:
            self._close(self._registry.of_group(group_id) + self._registry.unsettled(), CloseCode.RESYNC)
        else:
            self._close(self._registry.of_user(user_id), CloseCode.RESYNC)

    def session_ended(self, session_id: UUID) -> None:
        """Close the session's sockets."""
        self._close(self._registry.of_session(session_id), CloseCode.SESSION_ENDED)

    def user_ended(self, user_id: UUID) -> None:
        """Close all sockets of the user."""
        self._close(self._registry.of_user(user_id), CloseCode.SESSION_ENDED)

    def user_uncertain(self, user_id: UUID) -> None:
        """Have all sockets of the user connect again, which those can whose session is still there."""
        self._close(self._registry.of_user(user_id), CloseCode.RESYNC)

    def sockets(self, session_id: UUID) -> int:
        """How many sockets the session has open here."""
        return len(self._registry.of_session(session_id))

    def close(self) -> None:
        """Close every socket, and let nobody in from now on."""
        self._is_closing = True
        self._close(self._registry.everyone(), CloseCode.GOING_AWAY)

    def _close(self, listeners: Iterable[Listener], code: CloseCode) -> None:
        for listener in listeners:
            self._registry.detach(listener)
            listener.connection.close(code)
