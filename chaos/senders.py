"""Do what users do, over HTTP, over att.v1 and in SQL: broadcast, take back, mark as read, change members."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import aiohttp
import psycopg

from chaos import plan as plans
from chaos.cluster import Cluster
from chaos.evidence import Change, Ephemeral, Position, Redaction, Sending
from chaos.frames import Ack, Error
from chaos.listeners import ListenerV1, NotConnected, Person
from chaos.plan import Broadcast, Way

TIMEOUT = aiohttp.ClientTimeout(8)
PAUSE = 0.3  # seconds before a retry
LAST_NUMBER = 10**9  # of frames that repeat others, which need an id of their own
REFUSALS = ("not a member", "no such group")
TRY_AGAIN = ("busy", "unavailable", "database unavailable", "shutting down")

BROADCAST = "SELECT att_broadcast(%s, %s, %s), (SELECT id FROM att_current_epoch())"
REDACT = "SELECT att_redact(%s, %s)"
JOIN = (
    "INSERT INTO members (group_id, user_id, role) SELECT %s, unnest(%s::uuid[]), 'member'"
    " ON CONFLICT DO NOTHING RETURNING user_id"
)
LEAVE = "DELETE FROM members WHERE group_id = %s AND user_id = ANY (%s) AND role = 'member' RETURNING user_id"
TOGGLE = """UPDATE groups SET "join" = CASE "join" WHEN 'open' THEN 'invite' ELSE 'open' END WHERE id = %s"""


class Outcome(NamedTuple):
    """A sender's answer: a position, or a refusal; neither if the result is unknown."""

    position: Position | None = None
    is_refused: bool = False


class Senders:
    """Does what the plan says, and records the results."""

    def __init__(
        self,
        cluster: Cluster,
        session: aiohttp.ClientSession,
        admin: Person,
        people: Sequence[Person],
        groups: Sequence[UUID],
        listeners: Sequence[object],
    ) -> None:
        self.sendings: list[Sending] = []
        self.ephemerals: list[Ephemeral] = []
        self.redactions: list[Redaction] = []
        self.markings: dict[tuple[UUID, UUID], int] = {}
        self.changes: list[Change] = []
        self.faults: list[str] = []
        self._cluster = cluster
        self._session = session
        self._admin = admin
        self._people = people
        self._groups = groups
        self._listeners = listeners
        self._repeats = 0

    async def broadcast(self, plan: Broadcast, number: int, person: Person) -> None:
        """Send it. With a key, repeat until the result is known; without one, send once."""
        user_id = None if plan.way is Way.SQL else person.id
        sending = Sending(self._groups[plan.group], user_id, plan.body, plan.key, is_refused=plan.is_undone)
        self.sendings.append(sending)
        attempts = 0
        while True:
            outcome = await self._try(plan, sending, person, number if attempts == 0 else self._next_number())
            attempts += 1
            if outcome.position is not None:
                sending.acks.append(outcome.position)
            # A refused retry proves nothing: the attempt with an unknown result may still append it.
            sending.is_refused |= outcome.is_refused and attempts == 1
            is_final = outcome != Outcome()
            if plan.key is None or plan.is_undone or (is_final and not (plan.repeats and len(sending.acks) == 1)):
                return
            await asyncio.sleep(PAUSE)

    async def _try(self, plan: Broadcast, sending: Sending, person: Person, number: int) -> Outcome:
        listener = self._listeners[plan.client]
        if plan.way is Way.SQL:
            return await self._by_sql(sending, is_undone=plan.is_undone)
        if plan.way is Way.SOCKET and isinstance(listener, ListenerV1):
            try:
                return await self._by_socket(listener, sending, number)
            except NotConnected:
                pass
        return await self._by_http(self._cluster.servers[plan.server].url, sending, person)

    async def _by_sql(self, sending: Sending, *, is_undone: bool) -> Outcome:
        try:
            async with self._cluster.database.transaction(is_undone=is_undone) as connection:
                values = (sending.group_id, sending.body, sending.key)
                position = Position(*await (await connection.execute(BROADCAST, values)).fetchone() or (0, ""))
        except psycopg.Error:
            return Outcome()
        return Outcome(None if is_undone else position)

    async def _by_socket(self, listener: ListenerV1, sending: Sending, number: int) -> Outcome:
        answer = await listener.broadcast(number, str(sending.group_id), sending.body, sending.key)
        return self._outcome(answer, sending.group_id)

    def _outcome(self, answer: Ack | Error | None, group_id: UUID) -> Outcome:
        if answer is None:
            return Outcome()
        if isinstance(answer, Error):
            if answer.error not in (*REFUSALS, *TRY_AGAIN):
                self.faults.append(f"a broadcast was answered with the error {answer.error}: {answer.detail}")
            return Outcome(is_refused=answer.error in REFUSALS)
        if answer.group != group_id:
            self.faults.append(f"a broadcast to {group_id} was acknowledged for {answer.group}")
        return Outcome(Position(answer.seq, answer.epoch))

    async def _by_http(self, url: str, sending: Sending, person: Person) -> Outcome:
        headers = person.headers | ({} if sending.key is None else {"Idempotency-Key": sending.key})
        status, answer = await self._request(
            "POST", f"{url}/broadcast/{sending.group_id}", headers, sending.body, {200, 403, 503}
        )
        position = Position(answer["seq"], answer["epoch"]) if status == 200 else None
        return Outcome(position, is_refused=status == 403)

    async def broadcast_ephemeral(self, plan: plans.Ephemeral, number: int, person: Person) -> None:
        """Send it once."""
        sending = Ephemeral(self._groups[plan.group], person.id, plan.body, time.time())
        self.ephemerals.append(sending)
        listener = self._listeners[plan.client]
        if plan.way is Way.SOCKET and isinstance(listener, ListenerV1):
            try:
                answer = await listener.broadcast_ephemeral(number, str(sending.group_id), plan.body)
            except NotConnected:
                pass
            else:
                sending.is_refused = self._outcome(answer, sending.group_id).is_refused
                return
        url = f"{self._cluster.servers[plan.server].url}/broadcast/{sending.group_id}?ephemeral=true"
        status, _ = await self._request("POST", url, person.headers, plan.body, {202, 403, 503})
        sending.is_refused = status == 403

    async def redact(self, plan: plans.Redaction) -> None:
        """Take one of the acknowledged messages back, which is now or soon in the log of all nodes."""
        sendings = [each for each in self.sendings if each.acks and each.user_id is not None]
        if not sendings:
            return
        sending = sendings[int(plan.choice * len(sendings))]
        group_id, seq = sending.group_id, sending.acks[0].seq
        if plan.way is Way.SQL:
            try:
                async with self._cluster.database.transaction() as connection:
                    row = await (await connection.execute(REDACT, (group_id, seq))).fetchone()
            except psycopg.Error:
                return
            is_done = row != (None,)
        else:
            person = next(person for person in self._people if person.id == sending.user_id)
            url = f"{self._cluster.servers[plan.server].url}/groups/{group_id}/events/{seq}"
            # After a failover the message may be lost, and the seq that of another one, or of none.
            expected = {204, 503, 403, 404} if self._cluster.database.has_standby else {204, 503}
            status, _ = await self._request("DELETE", url, person.headers, None, expected)
            is_done = status == 204
        if is_done:
            self.redactions.append(Redaction(group_id, seq, time.time()))

    async def mark(self, plan: plans.Marking, person: Person) -> None:
        """Move a read marker, once."""
        group_id, listener = self._groups[plan.group], self._listeners[plan.client]
        seq = round(plan.part * listener.positions[group_id]) if isinstance(listener, ListenerV1) else 1
        url = f"{self._cluster.servers[plan.server].url}/groups/{group_id}/read"
        status, answer = await self._request("PUT", url, person.headers, f'{{"seq": {seq}}}', {200, 403, 503})
        if status == 200:
            place = person.id, group_id
            self.markings[place] = max(answer["read"], self.markings.get(place, 0))

    async def change(self, plan: plans.Change) -> None:
        """Let users join or leave, once."""
        group_id, user_ids = self._groups[plan.group], [self._people[user].id for user in plan.users]
        kind = "joined" if plan.is_joining else "left"
        if plan.way is Way.HTTP:
            changed = await self._change_by_http(plan, group_id, user_ids)
        else:
            changed = await self._change_by_sql(plan, group_id, user_ids)
        self.changes += [Change(group_id, user_id, kind, time.time()) for user_id in changed]

    async def _change_by_http(self, plan: plans.Change, group_id: UUID, user_ids: list[UUID]) -> list[UUID]:
        url = f"{self._cluster.servers[plan.server].url}/groups/{group_id}/members/{user_ids[0]}"
        method, expected = ("PUT", {200, 201, 503}) if plan.is_joining else ("DELETE", {204, 404, 503})
        status, _ = await self._request(method, url, self._admin.headers, None, expected)
        return user_ids if status in (201, 204) else []

    async def _change_by_sql(self, plan: plans.Change, group_id: UUID, user_ids: list[UUID]) -> list[UUID]:
        try:
            async with self._cluster.database.transaction() as connection:
                cursor = await connection.execute(JOIN if plan.is_joining else LEAVE, (group_id, user_ids))
                rows = await cursor.fetchall()
                await connection.execute(TOGGLE, (group_id,))  # another kind of event
        except psycopg.Error:
            return []
        return [user_id for (user_id,) in rows]

    async def _request(
        self, method: str, url: str, headers: dict[str, str], body: str | None, expected: set[int]
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer; 0 if there is none."""
        headers = headers | {"Content-Type": "application/json"}
        try:
            async with self._session.request(method, url, data=body, headers=headers, timeout=TIMEOUT) as response:
                text = await response.text()
                if response.status not in expected:
                    self.faults.append(f"{method} {url} answers {response.status}: {text[:200]}")
                return response.status, json.loads(text or "{}")
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0, {}

    def _next_number(self) -> int:
        self._repeats += 1
        return LAST_NUMBER + self._repeats
