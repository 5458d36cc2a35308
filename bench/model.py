"""A model of an installation: how many nodes it takes, their load on Redis and PostgreSQL, and what is full first.

It is arithmetic on measurements and assumptions, each of which is listed here with its source. Nothing in it is random:
it computes expected values.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

DAY = 86_400.0  # seconds
KIB, MIB, GIB, TIB = (1024.0**power for power in range(1, 5))
RARE_SWEEP, WHOLE_SWEEP = 24, 120  # of so many looks into the log one asks for sessions, and one compares all
OVERLAP = 2.0  # times that each event is read as a recent one, at most
MOST_NODES = 2**24  # the search ends here
HIGHEST = 10**12  # users; more are not looked for


def of(value: float, unit: str, source: str) -> Any:
    """Define a field with this value, its unit, and its source."""
    return field(default=value, metadata={"unit": unit, "source": source})


@dataclass(frozen=True)
class Costs:
    """The cost of one of each thing."""

    delivery: float = of(5.5, "µs of a node", "fanout: of 100 B, what one more socket adds")
    append: float = of(47.0, "µs of a node", "publishing: over att.v1 into 100 groups")
    publish: float = of(
        6.3, "µs of a node", "nodes: 2 sockets, 20 in flight, the node that sends, with and without Redis"
    )
    receive: float = of(15.0, "µs of a node", "nodes: likewise, the other node, without the delivery")
    connect: float = of(1_580.0, "µs of a node", "growth: connecting and resuming")
    connect_group: float = of(5.4, "µs of a node", "growth: for each group of who connects")
    resume: float = of(16.6, "µs of a node", "growth: for each event that was missed")
    sweep: float = of(3.2, "µs of a node", "upkeep: comparing a group")
    joinings: float = of(3.1, "µs of a node", "upkeep: comparing a membership")
    session: float = of(13.9, "µs of a node", "sessions: living, in Redis")
    socket: float = of(3.9, "KiB of a node", "memory: a listener with one group")
    stream: float = of(1.6, "KiB of a node", "upkeep: each group with a listener there")
    redis_publish: float = of(1.1, "µs of Redis", "nodes: a message to no node, by those to 1 to 16")
    redis_node: float = of(0.28, "µs of Redis", "nodes: for each node that it goes to")
    redis_session: float = of(0.9, "µs of Redis", "sessions: living, in Redis")
    db_append: float = of(13.8, "µs of PostgreSQL", "publishing: over att.v1 into 100 groups")
    db_connect: float = of(1_030.0, "µs of PostgreSQL", "growth: connecting and resuming")
    db_resume: float = of(8.6, "µs of PostgreSQL", "growth: for each event that was missed")
    db_sweep: float = of(4.1, "µs of PostgreSQL", "upkeep: comparing a group")
    db_joinings: float = of(0.7, "µs of PostgreSQL", "upkeep: comparing a membership")
    db_session: float = of(0.7, "µs of PostgreSQL", "sessions: living, in Redis")
    db_recent: float = of(0.4, "µs of PostgreSQL", "upkeep: reading a recent event")
    wal: float = of(455.0, "bytes an event", "upkeep: of 100 B, and its removal")
    event: float = of(271.0, "bytes an event", "upkeep: of 100 B, on the disk, with its indexes")
    member: float = of(1_300.0, "bytes a membership", "upkeep: with the event and the history of the join")
    group: float = of(1_120.0, "bytes a group", "upkeep: with the history of its creation")
    user: float = of(2_000.0, "bytes a user", "assumed, with its history")
    payload: float = of(270.0, "bytes an event", "assumed: of 100 B, on its way between nodes")


@dataclass(frozen=True)
class Workload:
    """A use of att: people who chat, each in some groups, most of them small."""

    users: float = of(1e6, "users", "what is asked for")
    connected: float = of(0.1, "of the users", "assumed, at the busiest time, with one socket each")
    groups: float = of(20.0, "groups a user", "assumed, the mean")
    tail: float = of(2.3, "exponent", "assumed: groups with k members are as many as k to the power of minus this")
    largest: float = of(131_072.0, "members", "assumed; less where there would not be one such group")
    messages: float = of(20.0, "a user and day", "assumed, the mean of all users")
    posting: float = of(0.5, "exponent", "assumed: a group with k members has messages as k to the power of this")
    peak: float = of(3.0, "times the mean", "assumed: the busiest second")
    connects: float = of(8.0, "a user and day", "assumed, the mean of all users")
    missed: float = of(20.0, "events", "assumed: resumed with each connection")
    retained: float = of(30.0, "days", "the default of --retention-age; of a group 1,000 events at most")


# Few groups, some of them very large. Larger groups have more messages.
CROWDS = Workload(groups=5.0, tail=1.9, largest=1_048_576.0, messages=10.0, posting=0.8)


@dataclass(frozen=True)
class Machines:
    """The machines there are, and how much of each may be used."""

    busy: float = of(0.6, "of a core", "assumed: what may be used at the busiest time")
    node_memory: float = of(4.0, "GiB", "assumed: for the sockets of a node, which uses one core")
    nodes: float = of(100.0, "nodes", "what is asked for")
    redis_network: float = of(10.0, "Gbit/s", "assumed: of one Redis, which uses one core")
    db_cores: float = of(32.0, "cores", "assumed: of one PostgreSQL")
    db_wal: float = of(200.0, "MiB/s", "assumed: what its disk takes with fsync on")
    db_disk: float = of(8.0, "TiB", "assumed")
    db_connections: float = of(1_000.0, "connections", "assumed, of which a node has 12")
    group_appends: float = of(21_479.0, "a second", "publishing: over att.v1 into one group")
    sweep_interval: float = of(5.0, "seconds", "_SWEEP_INTERVAL of att/realtime/log_reader.py")


CONNECTIONS = 12  # of a node with PostgreSQL
RETENTION = 1_000  # events of a group that are kept


class Size(NamedTuple):
    """The groups with this many members: their number, and the messages a second of each at the peak."""

    members: float
    count: float
    messages: float


def sizes(workload: Workload) -> list[Size]:
    """Return the groups by size, in powers of two: as many memberships as there are, and a heavy tail."""
    largest = min(workload.largest, workload.users)
    while True:
        classes = [2.0**power for power in range(1, max(int(math.log2(largest)), 1) + 1)]
        weights = [members ** (1 - workload.tail) for members in classes]
        scale = workload.users * workload.groups / sum(w * k for w, k in zip(weights, classes, strict=True))
        if weights[-1] * scale >= 1 or len(classes) == 1:
            break
        largest /= 2
    counts = [weight * scale for weight in weights]
    shares = [count * members**workload.posting for count, members in zip(counts, classes, strict=True)]
    rate = workload.users * workload.messages * workload.peak / DAY
    return [
        Size(members, count, rate * share / sum(shares) / count)
        for members, count, share in zip(classes, counts, shares, strict=True)
    ]


def nodes_reached(nodes: float, members: float, connected: float = 1.0) -> float:
    """Return the expected number of nodes with a listener. Each member is connected to any node, or to none."""
    return nodes * (1 - (1 - connected / nodes) ** members)


class Load(NamedTuple):
    """The work of this many nodes together in a second of the busiest time, and what they store."""

    messages: float
    deliveries: float
    reached: float  # nodes, by the mean broadcast
    streams: float  # groups with a listener, on each node that has one
    sockets: float
    cores: float  # of nodes
    memory: float  # GiB, of nodes
    redis_cores: float
    redis_network: float  # Gbit/s
    db_cores: float
    db_wal: float  # MiB/s
    db_disk: float  # TiB
    busiest_group: float  # messages a second


class Model(NamedTuple):
    """All assumptions."""

    costs: Costs = Costs()
    workload: Workload = Workload()
    machines: Machines = Machines()

    def of_users(self, users: float) -> "Model":
        """Return the same model with this many users."""
        return self._replace(workload=replace(self.workload, users=users))

    def load(self, nodes: float) -> Load:
        """Return the load of this many nodes."""
        work, groups = self.workload, sizes(self.workload)
        reach = [nodes_reached(nodes, group.members, work.connected) for group in groups]
        messages = sum(group.count * group.messages for group in groups)
        received = sum(g.count * g.messages * r for g, r in zip(groups, reach, strict=True))
        rates = _Rates(
            messages=messages,
            deliveries=sum(g.count * g.messages * g.members for g in groups) * work.connected,
            received=received if nodes > 1 else 0.0,
            published=messages if nodes > 1 else 0.0,
            connects=work.users * work.connects * work.peak / DAY,
            sockets=work.users * work.connected,
            streams=sum(g.count * r for g, r in zip(groups, reach, strict=True)),
        )
        return self._priced(rates, groups, received / messages, nodes)

    def _priced(self, rates: "_Rates", groups: list[Size], reached: float, nodes: float) -> Load:
        costs, work, seconds = self.costs, self.workload, self.machines.sweep_interval
        recent = rates.messages * nodes * OVERLAP * seconds  # events in one look of all nodes
        is_too_much = recent > rates.streams
        compared = rates.streams / seconds / (1 if is_too_much else WHOLE_SWEEP) + rates.connects * work.groups
        whole = rates.sockets * work.groups / seconds / (RARE_SWEEP if is_too_much else WHOLE_SWEEP)
        alive = rates.sockets / seconds / RARE_SWEEP
        cpu = (
            rates.deliveries * costs.delivery
            + rates.messages * costs.append
            + rates.published * costs.publish
            + rates.received * costs.receive
            + rates.connects * (costs.connect + work.groups * costs.connect_group + work.missed * costs.resume)
            + compared * costs.sweep
            + whole * costs.joinings
            + alive * costs.session
        )
        db_cpu = (
            rates.messages * costs.db_append
            + rates.connects * (costs.db_connect + work.missed * costs.db_resume)
            + min(recent, rates.streams) / seconds * costs.db_recent
            + compared * costs.db_sweep
            + whole * costs.db_joinings
            + alive * costs.db_session
        )
        redis_cpu = (
            rates.published * costs.redis_publish + rates.received * costs.redis_node + alive * costs.redis_session
        )
        return Load(
            messages=rates.messages,
            deliveries=rates.deliveries,
            reached=reached,
            streams=rates.streams,
            sockets=rates.sockets,
            cores=cpu / 1e6,
            memory=(rates.sockets * costs.socket + rates.streams * costs.stream) * KIB / GIB,
            redis_cores=redis_cpu / 1e6,
            redis_network=(rates.published + rates.received) * costs.payload * 8 / 1e9,
            db_cores=db_cpu / 1e6,
            db_wal=rates.messages * costs.wal / MIB,
            db_disk=self._disk(groups) / TIB,
            busiest_group=max(group.messages for group in groups),
        )

    def _disk(self, groups: list[Size]) -> float:
        costs, work = self.costs, self.workload
        kept = (min(RETENTION, g.messages / work.peak * work.retained * DAY) * g.count for g in groups)
        rest = work.users * (work.groups * costs.member + costs.user) + sum(g.count for g in groups) * costs.group
        return sum(kept) * costs.event + rest

    def nodes_for(self, fills: Callable[[Load, float], float]) -> int:
        """Return the smallest number of nodes that suffices. ``fills`` returns how full that many are."""
        high = 1
        while fills(self.load(high), high) > 1:
            high *= 2
            if high > MOST_NODES:
                return MOST_NODES
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fills(self.load(middle), middle) <= 1 else (middle, high)
        return high

    def by_cpu(self, load: Load, nodes: float) -> float:
        """Return how full the cores of this many nodes are."""
        return load.cores / nodes / self.machines.busy

    def by_memory(self, load: Load, nodes: float) -> float:
        """Return how full their memory is."""
        return load.memory / nodes / self.machines.node_memory

    def nodes(self) -> int:
        """Return how many nodes both need."""
        return max(self.nodes_for(self.by_cpu), self.nodes_for(self.by_memory))

    def fullness(self) -> dict[str, float]:
        """Return how full each resource is; 1 is full. The number of nodes is one of them."""
        nodes, have = self.nodes(), self.machines
        load = self.load(nodes)
        return {
            "nodes": nodes / have.nodes,
            "Redis: its core": load.redis_cores / have.busy,
            "Redis: its network": load.redis_network / have.redis_network,
            "PostgreSQL: cores": load.db_cores / (have.db_cores * have.busy),
            "PostgreSQL: WAL": load.db_wal / have.db_wal,
            "PostgreSQL: disk": load.db_disk / have.db_disk,
            "PostgreSQL: connections": nodes * CONNECTIONS / have.db_connections,
            "a group's lock": load.busiest_group / have.group_appends,
        }

    def users_until(self, is_full: Callable[["Model"], bool]) -> float:
        """Return the number of users at which it is full, to a hundredth; ``HIGHEST`` for never."""
        low, high = 1.0, float(HIGHEST)
        if not is_full(self.of_users(high)):
            return high
        while high / low > 1.005:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if is_full(self.of_users(middle)) else (middle, high)
        return high

    def limits(self) -> dict[str, float]:
        """Return the number of users at which each resource is full, the first one first."""
        names = self.fullness()
        found = {name: self.users_until(lambda model, name=name: model.fullness()[name] > 1) for name in names}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def users_of(self, nodes: int) -> float:
        """Return how many users this many nodes can serve."""
        return self.users_until(lambda model: model.nodes() > nodes)


class _Rates(NamedTuple):
    """A second of the busiest time."""

    messages: float
    deliveries: float
    received: float  # by nodes, from Redis
    published: float
    connects: float
    sockets: float  # that are open
    streams: float


def assumptions(model: Model) -> Iterator[tuple[str, str, str, str]]:
    """Yield each input: its part, its name, its value with its unit, and its source."""
    for part in model:
        for one in fields(part):
            value = f"{getattr(part, one.name):,.10g} {one.metadata['unit']}"
            yield type(part).__name__, one.name, value, one.metadata["source"]
