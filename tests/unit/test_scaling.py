"""The model of scaling: small cases computed by hand, and the tables of docs/explanation/scaling.md."""

import importlib
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from att.cli.doctor.database import CONNECTIONS
from att.groups.service import RULES
from att.realtime.log_reader import _SWEEP_INTERVAL, RARE_SWEEP, WHOLE_SWEEP
from bench import model as module
from bench.model import DAY, GIB, HIGHEST, Costs, Machines, Model, Workload, assumptions, nodes_reached, sizes

ROOT = Path(__file__).parents[2]
FREE = Costs(**dict.fromkeys(Costs.__dataclass_fields__, 0.0))
# 16 memberships: 4 groups of 2, and 2 groups of 4, each of which has twice as many messages.
SMALL = Workload(
    users=16, groups=1, tail=2, largest=4, messages=DAY, posting=1, peak=1, connected=0.5, connects=0, missed=0
)


@pytest.fixture(scope="module")
def scaling():
    """The program that prints the tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        return importlib.import_module("scaling")


@pytest.mark.parametrize(
    ("nodes", "members", "connected", "expected"),
    [
        (1, 5, 1, 1),
        (2, 1, 1, 1),
        (2, 2, 1, 1.5),
        (4, 3, 1, 2.3125),
        (1, 2, 0.5, 0.75),
        (2, 2, 0.5, 0.875),
        (100, 1_000_000, 1, 100),
    ],
)
def test_nodes_reached(nodes, members, connected, expected):
    assert nodes_reached(nodes, members, connected) == pytest.approx(expected)


def test_nodes_reached_is_the_mean_of_all_ways_to_connect():
    """Counted out: each of three members is on one of three nodes, or on none, which is as likely as all of them."""
    ways = list(itertools.product(range(6), repeat=3))  # 0 to 2: that node
    mean = sum(len({place for place in way if place < 3}) for way in ways) / len(ways)
    assert nodes_reached(3, 3, 0.5) == pytest.approx(mean)


def test_sizes():
    """As many memberships as there are, and as many messages."""
    found = sizes(SMALL)
    assert [(size.members, size.count) for size in found] == [(2, pytest.approx(4)), (4, pytest.approx(2))]
    # 16 messages a second, of which each size has half.
    assert [size.messages for size in found] == [pytest.approx(2), pytest.approx(4)]


@pytest.mark.parametrize("users", [2, 100, 10_000, 10**8])
def test_sizes_add_up(users):
    """However many there are; of the largest there is at least one."""
    workload = Workload(users=users)
    found = sizes(workload)
    assert sum(size.members * size.count for size in found) == pytest.approx(users * workload.groups)
    assert sum(size.messages * size.count for size in found) == pytest.approx(
        users * workload.messages * workload.peak / DAY
    )
    assert found[-1].count >= 1
    assert found[-1].members <= min(users, workload.largest)


def test_load():
    """Two nodes: what is sent, heard and delivered, and who pays for it."""
    one, two = (Model(FREE, SMALL, Machines()).load(nodes) for nodes in (1, 2))
    assert (one.messages, one.sockets) == (pytest.approx(16), 8)
    assert one.deliveries == pytest.approx((8 * 2 + 8 * 4) * 0.5)
    assert one.busiest_group == pytest.approx(4)
    # Of a group of 2 somebody listens on one node with 3/4, of 4 with 15/16; on two nodes 2 * (1 - (3/4)^k).
    assert one.streams == pytest.approx(4 * 3 / 4 + 2 * 15 / 16)
    assert two.streams == pytest.approx(4 * 2 * (1 - 0.75**2) + 2 * 2 * (1 - 0.75**4))
    assert two.reached == pytest.approx((2 * (1 - 0.75**2) + 2 * (1 - 0.75**4)) / 2)
    assert two.deliveries == one.deliveries
    assert (one.cores, one.db_cores, one.redis_cores) == (0, 0, 0)


@pytest.mark.parametrize(
    ("cost", "of", "nodes", "expected"),
    [
        ("delivery", "cores", 1, 24),
        ("append", "cores", 1, 16),
        ("publish", "cores", 1, 0),
        ("publish", "cores", 2, 16),
        ("receive", "cores", 1, 0),
        ("receive", "cores", 2, 8 * 0.875 + 8 * 1.3671875),
        ("redis_publish", "redis_cores", 2, 16),
        ("redis_node", "redis_cores", 2, 8 * 0.875 + 8 * 1.3671875),
        ("redis_session", "redis_cores", 1, 8 / 5 / 24),
        ("sweep", "cores", 1, (4 * 3 / 4 + 2 * 15 / 16) / 5),
        ("joinings", "cores", 1, 8 / 5 / 24),
        ("session", "cores", 1, 8 / 5 / 24),
        ("db_append", "db_cores", 1, 16),
        ("db_sweep", "db_cores", 1, (4 * 3 / 4 + 2 * 15 / 16) / 5),
        ("db_recent", "db_cores", 1, (4 * 3 / 4 + 2 * 15 / 16) / 5),
        ("wal", "db_wal", 1, 16 * 1e6 / 1024**2),
        ("socket", "memory", 1, 8 * 1e6 / 1024**2),
        ("payload", "redis_network", 2, (16 + 8 * 0.875 + 8 * 1.3671875) * 8e6 / 1e9),
        ("event", "db_disk", 1, (4 + 2) * 1_000 * 1e6 / 1024**4),
        ("member", "db_disk", 1, 16 * 1e6 / 1024**4),
        ("group", "db_disk", 1, 6 * 1e6 / 1024**4),
        ("user", "db_disk", 1, 16 * 1e6 / 1024**4),
    ],
)
def test_each_cost(cost, of, nodes, expected):
    """A million of each, alone: who pays it, and how often."""
    load = Model(replace(FREE, **{cost: 1e6}), SMALL, Machines()).load(nodes)
    assert getattr(load, of) == pytest.approx(expected)


@pytest.mark.parametrize(("cost", "expected"), [("db_recent", 2 * 16 / 1_000), ("sweep", 1), ("joinings", 1)])
def test_the_costs_of_few_messages(cost, expected):
    """A recent event is read twice; all is compared seldom, here once a second."""
    workload, machines = replace(SMALL, messages=SMALL.messages / 1_000), Machines(sweep_interval=1 / 120)
    load = Model(replace(FREE, **{cost: 1e6}), workload, machines).load(1)
    streams, memberships = 4 * 3 / 4 + 2 * 15 / 16, 8
    times = {"db_recent": 1, "sweep": streams, "joinings": memberships}[cost]
    assert (load.db_cores if cost == "db_recent" else load.cores) == pytest.approx(expected * times)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [("connect", 2), ("connect_group", 6), ("resume", 14), ("db_connect", 2), ("db_resume", 14)],
)
def test_the_costs_of_connecting(cost, expected):
    """2 connect in a second, each with 3 groups and 7 events that were missed."""
    workload = replace(SMALL, connects=DAY / 8, groups=3, missed=7)
    load = Model(replace(FREE, **{cost: 1e6}), workload, Machines()).load(1)
    assert (load.db_cores if cost.startswith("db_") else load.cores) == pytest.approx(expected)


def test_nodes():
    """For the one and the other: 8 sockets of a GiB on nodes of 3; 24 cores, of each of which half is used."""
    costs = replace(FREE, socket=GIB / 1024, delivery=1e6)
    model = Model(costs, SMALL, Machines(node_memory=3, busy=0.5))
    assert model.nodes_for(model.by_memory) == 3
    assert model.nodes_for(model.by_cpu) == 48
    assert model.nodes() == 48
    assert Model(FREE, SMALL, Machines()).nodes() == 1


def test_nodes_beyond_all_numbers():
    """What more nodes do not help against comes to an end."""
    model = Model(FREE, SMALL, Machines())
    assert model.nodes_for(lambda *_: 2.0) == module.MOST_NODES


def test_limits():
    """The first one first, each where it is full; never is told as such."""
    model = Model()
    limits = model.limits()
    assert [*limits.values()] == sorted(limits.values())
    for name, users in limits.items():
        if users < HIGHEST:
            assert model.of_users(users * 0.98).fullness()[name] <= 1
            assert model.of_users(users * 1.02).fullness()[name] > 1
    assert limits["a group's lock"] == HIGHEST


@pytest.mark.parametrize("nodes", [1, 10])
def test_how_many_users_some_nodes_hold(nodes):
    users = Model().users_of(nodes)
    assert Model().of_users(users * 0.98).nodes() <= nodes
    assert Model().of_users(users * 1.02).nodes() > nodes


def test_it_is_the_program_that_is_modelled():
    """Constants that stand in both places are the same."""
    assert Machines().sweep_interval == _SWEEP_INTERVAL
    assert (module.RARE_SWEEP, module.WHOLE_SWEEP) == (RARE_SWEEP, WHOLE_SWEEP)
    assert (CONNECTIONS, RULES["retention"]) == (module.CONNECTIONS, module.RETENTION)


def test_every_input_says_where_it_is_from():
    """From a question of the benchmarks, which there is, or else it is assumed or given."""
    questions = re.search(r"QUESTIONS := (.+)", (ROOT / "Makefile").read_text())[1].split()
    for part, name, value, source in assumptions(Model()):
        assert re.match(r"[\d.,e+-]+ \S", value), name
        begins = source.partition(":")[0]
        is_given = source.startswith(("assumed", "what is asked for", "the default of --", "_SWEEP_INTERVAL of"))
        assert begins in questions or (is_given and (part != "Costs" or source.startswith("assumed"))), (
            name,
            source,
        )


def test_the_document_has_the_tables(scaling):
    """As `make bench ARGS=scaling` writes them."""
    document = (scaling.DOCUMENT).read_text()
    assert scaling.rewrite(document) == document
    for title in scaling.TABLES:
        assert scaling.markdown(scaling.TABLES[title](scaling.MODELS["chat"])) in document, title
    assert scaling.inputs() in document


def test_numbers_in_words(scaling):
    pairs = [(0, "0"), (0.0421, "0.042"), (1, "1"), (1_649, "1,600"), (2.56e6, "2.6 million"), (999_999, "1 million")]
    assert [scaling.words(number) for number, _ in pairs] == [text for _, text in pairs]
    assert math.isclose(float(scaling.words(24_744).replace(",", "")), 25_000)
