"""The steps by which a request becomes a listener, in their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from aiohttp import web

from att.accounts.rate_quotas import RateQuotas
from att.core.memory import MemoryBudget
from att.core.names import fold, parse_uuid
from att.core.quotas import Quota
from att.core.read_turns import ReadTurns
from att.errors import AttError, NotAMember, NotSignedIn, UpgradeRequired
from att.groups.queries import GroupQueries
from att.http.context import SESSION
from att.http.requests import wants_event_stream
from att.protocol.event_stream import EventId
from att.realtime.ephemeral_publisher import EphemeralPublisher
from att.realtime.event_log import EventLog, Position, Publish
from att.realtime.hub import Hub
from att.realtime.log_reader import LogReader
from att.realtime.marker_updates import MarkerUpdates
from att.realtime.presence_feed import PresenceFeed
from att.realtime.publish_queue import PublishCallback
from att.realtime.publisher import Publisher
from att.realtime.registry import Dialect, Encoding, Listener
from att.sessions.store import Session, SessionStore
from att.websocket.connection import HEARTBEAT, WebSocketConnection
from att.websocket.event_stream import EventStreamConnection, EventStreamProtocol
from att.websocket.keepalive import KeepaliveTimer
from att.websocket.refusals import refusal_of
from att.websocket.subprotocols import AttV1Protocol, ClientActions, PlainProtocol
from att.websocket.upgrade import detach_transport, dialect_of, extension_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenEndpoint:
    """Upgrades requests to WebSockets, and attaches them to the hub.

    ``outbox_limit`` is in bytes, for each socket. With ``compress`` clients that ask for it get compressed frames.
    """

    hub: Hub
    sessions: SessionStore
    log: EventLog
    reader: LogReader
    publisher: Publisher
    ephemerals: EphemeralPublisher
    markers: MarkerUpdates
    presence: PresenceFeed
    groups: GroupQueries
    keepalive: KeepaliveTimer
    quotas: RateQuotas
    outbox_limit: int
    memory: MemoryBudget
    read_turns: ReadTurns
    compress: bool

    async def serve(
        self, request: web.Request, groups: Sequence[str] = (), last: EventId | None = None
    ) -> web.StreamResponse:
        """Upgrade a signed-in request, to hear these groups of the user, given by id or name, or all without any.

        A request for server-sent events gets these, from the last id on. Raises UpgradeRequired, NotSignedIn,
        NoSuchGroup, NotAMember, QuotaExhausted, DatabaseUnavailable, and ConnectionError.
        """
        is_stream = wants_event_stream(request)
        session, dialect = request[SESSION], Dialect.V1 if is_stream else dialect_of(request)
        user_id = session.user_id
        if dialect is Dialect.V1:
            await self.quotas.prepare(user_id)
        # A peer that is lost without a word keeps its socket until the second heartbeat. Nothing is awaited between
        # this and the attachment of a listener within the quota.
        await self.quotas.check_sockets(user_id, len(self.hub.registry.of_user(user_id)), HEARTBEAT * 1.5)
        connection = self._connection(EventStreamConnection if is_stream else WebSocketConnection)
        extension = extension_of(request) if self.compress and not is_stream else ""
        encoding = Encoding.EVENTS if is_stream else Encoding.DEFLATED if extension else Encoding.PLAIN
        listener = Listener(session.user_id, session.id, connection, dialect, encoding)
        protocol = self._protocol_for(listener, connection)
        try:
            self.hub.attach(listener)
            # The listener is attached before both are read, so it misses no change made meanwhile.
            await self._check(session)
            if isinstance(protocol, EventStreamProtocol):
                await protocol.find_moment(self.log)
            positions = await self.log.positions(user_id, counts=dialect is Dialect.V1)
            epoch = self.log.epoch
            listener.only = await self._chosen(groups, positions, user_id) if groups else None
            if isinstance(protocol, EventStreamProtocol):
                await protocol.find_start(self.log, epoch, positions, last)
            response = await connection.accept(request, dialect, extension)
            upgraded = detach_transport(request, connection)
            connection.open(upgraded, session, protocol, dialect, inflates=bool(extension))
            protocol.begin(epoch, positions)
            connection.listen(upgraded.early)
        except BaseException:
            connection.abort()
            protocol.on_lost()
            raise
        return response

    async def refuse(self, request: web.Request, error: AttError) -> web.StreamResponse | None:
        """Accept a handshake of att.v1, only to close it with the reason: a page's script sees no status.

        Return None if the error is to be the response. Raises ConnectionError.
        """
        refusal = refusal_of(error)
        if refusal is None or request.can_read_body:
            return None
        try:
            dialect = dialect_of(request)
        except UpgradeRequired:
            return None
        if dialect is not Dialect.V1:
            return None
        connection = self._connection()
        response = await connection.accept(request, dialect)
        connection.refuse(detach_transport(request, connection), *refusal)
        return response

    async def _check(self, session: Session) -> None:
        """Raise NotSignedIn if the session has ended."""
        if await self.sessions.check(session.id) is None:
            raise NotSignedIn

    async def _chosen(self, references: Sequence[str], positions: Sequence[Position], user_id: UUID) -> frozenset[UUID]:
        """Return the groups of the user that are given by id or name. Raise NoSuchGroup and NotAMember."""
        own = [position for position in positions if position.is_member]
        known = {str(position.group_id): position.group_id for position in own}
        known |= {fold(position.name): position.group_id for position in own}
        chosen = set()
        for reference in references:
            group_id = known.get(str(parse_uuid(reference) or fold(reference)))
            if group_id is None:
                await self.groups.find(reference, user_id)
                raise NotAMember
            chosen.add(group_id)
        return frozenset(chosen)

    def _connection(self, kind: type[WebSocketConnection] = WebSocketConnection) -> WebSocketConnection:
        return kind(self.keepalive, self.sessions, self.outbox_limit, self.memory, self.read_turns)

    def _submit(self, publish: Publish, callback: PublishCallback) -> None:
        self.quotas.take_now(Quota.BROADCASTS, publish.actor_id)
        self.publisher.submit(publish, callback)

    async def _mark(self, group: UUID | str, user_id: UUID, seq: int) -> None:
        await self.quotas.take(Quota.REQUESTS, user_id)
        await self.markers.move(group, user_id, seq)

    def _protocol_for(self, listener: Listener, connection: WebSocketConnection) -> PlainProtocol:
        if listener.dialect is Dialect.V1:
            actions = ClientActions(
                self._submit,
                self._mark,
                self.presence.watch,
                partial(self.quotas.take_now, Quota.EPHEMERALS),
                self.ephemerals.publish_known,
                self.ephemerals.publish,
            )
            if isinstance(connection, EventStreamConnection):
                return EventStreamProtocol(listener, connection, self.hub, self.reader, actions)
            return AttV1Protocol(listener, connection, self.hub, self.reader, actions)
        return PlainProtocol(listener, connection, self.hub, self.reader)
