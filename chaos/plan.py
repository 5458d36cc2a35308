"""The plan of a run, decided by the seed: actions and incidents, in order.

Ids and results are not in the plan: it counts users, clients and groups from 0.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import NamedTuple

SERVERS = 2


class Way(StrEnum):
    """The way in which an action is done."""

    HTTP = "http"
    SOCKET = "socket"
    SQL = "sql"


class Kind(StrEnum):
    """A kind of listener."""

    V1 = "att.v1"
    PLAIN = "plain"
    JAVASCRIPT = "the JavaScript client"
    SSE = "server-sent events"


class Disaster(StrEnum):
    """An incident of the servers, the database or Redis."""

    KILL_SERVER = "kill -9 of a server"
    KILL_SERVERS = "kill -9 of both servers"
    FREEZE_SERVER = "a server is frozen"
    END_LISTENING = "the connections that receive announcements are ended"
    END_CONNECTIONS = "all connections of the database are ended"
    KILL_CONNECTION = "kill -9 of a connection of the database"
    KILL_DATABASE = "kill -9 of the database"
    PROMOTE_STANDBY = "a standby without the last changes replaces the database"
    LOCK_GROUP = "a transaction locks a group"
    KILL_DRAINING = "kill -9 of a server that is about to stop"
    KILL_REDIS = "kill -9 of Redis"
    CUT_REDIS = "all connections to Redis are cut"


KINDS = {Kind.V1: 0.65, Kind.PLAIN: 0.15, Kind.JAVASCRIPT: 0.1, Kind.SSE: 0.1}  # with their shares of the listeners
CHATTER = 6  # ephemeral messages around the time when their sender leaves, or is removed
FREEZE = 2.0  # seconds at least
REMOVED = 10  # clients whose users are removed from all groups meanwhile
REDIS = (Disaster.KILL_REDIS, Disaster.CUT_REDIS)  # only with Redis


class Mishap(StrEnum):
    """An incident of a client."""

    CUT = "cut off"
    AWAY = "away for a while"
    SLOW = "does not read for a while"


class Size(NamedTuple):
    """The amount of everything. ``broadcasts`` to ``mishaps`` are per second; fewer ``deliveries`` prove little.

    ``promotions`` is the share of seeds in which a standby is promoted.
    """

    clients: int
    users: int
    groups: int
    seconds: float
    broadcasts: float
    ephemerals: float
    redactions: float
    markings: float
    changes: float
    mishaps: float
    disasters: tuple[Disaster, ...]
    deliveries: int
    promotions: float = 0.0
    has_redis: bool = False


STANDARD = Size(
    clients=200,
    users=160,
    groups=20,
    seconds=30,
    broadcasts=160,
    ephemerals=100,
    redactions=4,
    markings=4,
    changes=8,
    mishaps=8,
    disasters=(
        *(Disaster.KILL_SERVER, Disaster.END_LISTENING, Disaster.KILL_DATABASE) * 2,
        *(
            each
            for each in Disaster
            if each not in (Disaster.END_LISTENING, Disaster.KILL_DATABASE, Disaster.PROMOTE_STANDBY, *REDIS)
        ),
    ),
    deliveries=50_000,
    promotions=0.3,
)
SHORT = Size(
    clients=40,
    users=30,
    groups=5,
    seconds=6,
    broadcasts=60,
    ephemerals=40,
    redactions=2,
    markings=2,
    changes=6,
    mishaps=5,
    disasters=(Disaster.KILL_SERVER, Disaster.END_LISTENING, Disaster.KILL_DATABASE),
    deliveries=500,
)


def with_redis(size: Size) -> Size:
    """Return the same size with the servers on a Redis, which has incidents as well."""
    again = 1 if size is SHORT else 2
    return size._replace(disasters=(*size.disasters, *(*REDIS, Disaster.KILL_DRAINING) * again), has_redis=True)


@dataclass(frozen=True)
class Client:
    """A listener; with ``from_start`` from the beginning of each log, not from now on."""

    user: int
    kind: Kind
    from_start: bool


@dataclass(frozen=True)
class Broadcast:
    """A message. ``repeats``: it is sent again after it was acknowledged; ``is_undone``: SQL that is rolled back."""

    way: Way
    client: int
    group: int
    body: str
    key: str | None
    repeats: bool
    is_undone: bool
    server: int


@dataclass(frozen=True)
class Ephemeral:
    """An ephemeral message, over HTTP or a socket."""

    way: Way
    client: int
    group: int
    body: str
    server: int


@dataclass(frozen=True)
class Redaction:
    """One of the messages acknowledged so far is taken back, by its sender or in SQL."""

    way: Way
    choice: float
    server: int


@dataclass(frozen=True)
class Marking:
    """A client's user has read a group up to a part of what the client has of it: over HTTP."""

    client: int
    group: int
    part: float
    server: int


@dataclass(frozen=True)
class Change:
    """Users join or leave a group; over HTTP it is one user."""

    way: Way
    users: tuple[int, ...]
    group: int
    is_joining: bool
    server: int


@dataclass(frozen=True)
class Trouble:
    """A mishap of a client, for some seconds."""

    mishap: Mishap
    client: int
    seconds: float


@dataclass(frozen=True)
class Incident:
    """A disaster of a server (or, by the same number, a group or a connection), for some seconds."""

    disaster: Disaster
    target: int
    seconds: float


Action = Broadcast | Ephemeral | Redaction | Marking | Change | Trouble | Incident


class Step(NamedTuple):
    """An action, ``at`` seconds from the start."""

    at: float
    action: Action


@dataclass(frozen=True)
class Plan:
    """A run. ``members`` are pairs of a group and a user."""

    seed: int
    size: Size
    clients: tuple[Client, ...]
    members: frozenset[tuple[int, int]]
    steps: tuple[Step, ...]

    @property
    def has_standby(self) -> bool:
        """True if the database has a standby, which is promoted."""
        incidents = [step.action for step in self.steps if isinstance(step.action, Incident)]
        return any(incident.disaster is Disaster.PROMOTE_STANDBY for incident in incidents)


def make_plan(seed: int, size: Size) -> Plan:
    """Make the plan of a seed, always the same."""
    random = Random(seed)
    clients = tuple(
        Client(number % size.users, random.choices([*KINDS], [*KINDS.values()])[0], from_start=random.random() < 0.3)
        for number in range(size.clients)
    )
    members = frozenset((random.randrange(size.groups), user) for user in range(size.users) for _ in range(4))
    planner = _Planner(random, size, clients, members)
    return Plan(seed, size, clients, members, tuple(sorted(planner.steps(), key=lambda step: step.at)))


class _Planner:
    def __init__(
        self, random: Random, size: Size, clients: tuple[Client, ...], members: frozenset[tuple[int, int]]
    ) -> None:
        self._random = random
        self._size = size
        self._clients = clients
        self._ephemerals = 0
        self._groups_of = [[group for group, user in sorted(members) if user == each] for each in range(size.users)]

    def steps(self) -> Iterator[Step]:
        random, size = self._random, self._size
        yield from self._sendings()
        for _ in range(int(size.changes * size.seconds)):
            at, change = random.uniform(0, size.seconds), self._change()
            yield Step(at, change)
            clients = [number for number, each in enumerate(self._clients) if each.user in change.users]
            if clients and not change.is_joining:
                for _ in range(CHATTER):
                    yield Step(at + random.uniform(-2, 4), self._ephemeral(random.choice(clients), change.group))
        for _ in range(int(size.mishaps * size.seconds)):
            yield Step(random.uniform(0, size.seconds), self._trouble())
        disasters = random.sample(size.disasters, len(size.disasters))
        pause = size.seconds / (len(disasters) + 1)
        for number, disaster in enumerate(disasters, 1):
            at = pause * (number + random.uniform(-0.5, 0.5))
            is_freeze = disaster is Disaster.FREEZE_SERVER
            yield Step(
                at, Incident(disaster, random.randrange(1000), random.uniform(FREEZE if is_freeze else 0.1, 2.5))
            )
            yield from self._removals(at) if is_freeze else ()
        if random.random() < size.promotions:  # early enough for each server to find out while much goes on
            incident = Incident(Disaster.PROMOTE_STANDBY, 0, random.uniform(0.2, 2.5))
            yield Step(size.seconds * random.uniform(0.1, 0.6), incident)

    def _removals(self, at: float) -> Iterator[Step]:
        """Remove users while a server is frozen. When it wakes, their ephemeral messages wait there, like the news."""
        clients = [number for number, client in enumerate(self._clients) if client.kind is Kind.V1]
        for client in self._random.sample(clients, REMOVED):
            user = self._clients[client].user
            for group in self._groups_of[user]:
                yield Step(at + 0.1, Change(Way.SQL, (user,), group, is_joining=False, server=0))
                for after in (-0.5, -0.2, *(self._random.uniform(1.3, FREEZE) for _ in range(3))):
                    ephemeral = replace(self._ephemeral(client, group), way=Way.SOCKET)
                    yield Step(at + after, ephemeral)

    def _sendings(self) -> Iterator[Step]:
        random, size = self._random, self._size
        for number in range(int(size.broadcasts * size.seconds)):
            yield Step(random.uniform(0, size.seconds), self._broadcast(number))
        for _ in range(int(size.redactions * size.seconds)):
            way = random.choices((Way.HTTP, Way.SQL), (3, 1))[0]
            redaction = Redaction(way, random.random(), random.randrange(SERVERS))
            yield Step(random.uniform(0, size.seconds), redaction)
        for _ in range(int(size.markings * size.seconds)):
            client = random.randrange(len(self._clients))
            marking = Marking(client, self._group_of(client), random.random(), random.randrange(SERVERS))
            yield Step(random.uniform(0, size.seconds), marking)
        for _ in range(int(size.ephemerals * size.seconds)):
            client = random.randrange(len(self._clients))
            yield Step(random.uniform(0, size.seconds), self._ephemeral(client, self._group_of(client)))

    def _broadcast(self, number: int) -> Broadcast:
        random = self._random
        client = random.randrange(len(self._clients))
        way = random.choices([*Way], (3, 5, 1))[0]
        if way is Way.SOCKET and self._clients[client].kind is not Kind.V1:
            way = Way.HTTP
        return Broadcast(
            way,
            client,
            group=self._group_of(client),
            body=self._body(number),
            key=f"key {number}" if random.random() < 0.5 else None,
            repeats=random.random() < 0.1,
            is_undone=way is Way.SQL and random.random() < 0.2,
            server=random.randrange(SERVERS),
        )

    def _ephemeral(self, client: int, group: int) -> Ephemeral:
        self._ephemerals += 1
        body = f'{{"ephemeral":{self._ephemerals},"padding":"{"é" * self._random.randrange(200)}"}}'
        way = self._random.choices((Way.HTTP, Way.SOCKET), (1, 4))[0]
        return Ephemeral(way, client, group, body, self._random.randrange(SERVERS))

    def _group_of(self, client: int) -> int:
        """Return a group of the client's user, or seldom any, mostly one that they are not a member of."""
        theirs = self._groups_of[self._clients[client].user]
        is_any = self._random.random() < 0.1
        return self._random.randrange(self._size.groups) if is_any else self._random.choice(theirs)

    def _body(self, number: int) -> str:
        """Return a unique JSON object, in a form that parsing and formatting would change."""
        longest = self._random.choices((300, 4_000, 60_000), (80, 15, 5))[0]
        padding = "é" * self._random.randrange(longest // 2)
        return f'{{ "n" :{number},"padding":  {json.dumps(padding, ensure_ascii=False)}, "n": 1.0e0}}'

    def _change(self) -> Change:
        random = self._random
        way = random.choice((Way.HTTP, Way.SQL))
        count = 1 if way is Way.HTTP else random.choice((1, 1, 3, 10))
        group = random.randrange(self._size.groups)
        everyone = range(self._size.users)
        regulars = [user for user in everyone if group in self._groups_of[user]]
        crowd = regulars if random.random() < 0.7 and len(regulars) >= count else everyone
        users = tuple(random.sample(crowd, count))
        return Change(way, users, group, random.random() < 0.6, random.randrange(SERVERS))

    def _trouble(self) -> Trouble:
        random = self._random
        mishap = random.choices([*Mishap], (3, 3, 2))[0]
        seconds = random.uniform(4, 12) if mishap is Mishap.SLOW else random.uniform(0, 3)
        return Trouble(mishap, random.randrange(len(self._clients)), min(seconds, self._size.seconds / 2))
