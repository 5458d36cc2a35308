"""The budget of memory, and how much memory there is."""

import pytest
from doubles import Clock

from att.core.memory import KINDS, OVERHEAD, MemoryBudget
from att.core.process import available_memory

MIB = 1024**2


class Holder:
    """Releases what it holds when it must."""

    def __init__(self, budget, kind="body"):
        self.held = 0
        self.held_since = 0.0
        self.kind = kind
        self.has_given_up = False
        self._budget = budget

    def give_up(self):
        self.has_given_up = True
        self._budget.release(self, self.held)
        return self.kind


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def budget(clock):
    return MemoryBudget(800, clock)


def holders(budget, clock, *sizes):
    """Charge each of these a second after the one before."""
    found = []
    for size in sizes:
        found.append(Holder(budget))
        budget.charge(found[-1], size)
        clock.now += 1
    return found


def test_what_is_released_is_free_again(budget):
    """The use is the sum of what is held, and ends at nothing."""
    one, other = Holder(budget), Holder(budget)
    budget.charge(one, 300)
    budget.charge(other, 400)
    budget.release(one, 100)
    assert (budget.used, one.held, other.held) == (600, 200, 400)
    budget.release(one, 200)
    budget.release(other, 400)
    assert budget.used == 0
    budget.charge(other, 800)
    assert not one.has_given_up
    assert not other.has_given_up


def test_the_largest_and_slowest_give_up_first(budget, clock):
    """By bytes times seconds, until an eighth is free; the others keep what they hold."""
    old, large, young = holders(budget, clock, 100, 600, 50)
    last = Holder(budget)
    budget.charge(last, 60)
    assert [each.has_given_up for each in (old, large, young, last)] == [False, True, False, False]
    assert budget.used == 210
    assert budget.given_up.labels("body")._value.get() == 1


def test_as_many_as_it_takes(budget, clock):
    """One after the other."""
    found = holders(budget, clock, 200, 200, 200, 190)
    budget.charge(Holder(budget), 100)
    assert [each.has_given_up for each in found] == [True, False, False, False]
    budget.charge(Holder(budget), 400)
    assert [each.has_given_up for each in found] == [True, True, True, False]


def test_the_one_that_asks_for_too_much(budget):
    """It gives up itself if there is nobody else."""
    only = Holder(budget)
    budget.charge(only, 801)
    assert only.has_given_up
    assert budget.used == 0


def test_a_settled_holder_is_spared(budget, clock):
    """What it holds still counts."""
    settled, other = holders(budget, clock, 500, 300)
    budget.settle(settled)
    budget.charge(Holder(budget), 1)
    assert [settled.has_given_up, other.has_given_up] == [False, True]
    assert budget.used == 501
    budget.release(settled, 500)
    assert budget.used == 1


def test_a_frame_counts_once_in_however_many_outboxes(budget):
    """Until the last one has let it go; each outbox counts as holding all of it."""
    frame, outboxes = b"x" * 100, [Holder(budget, "outbox") for _ in range(50)]
    for outbox in outboxes:
        budget.charge_frame(outbox, frame)
    assert budget.used == 100 + OVERHEAD
    assert {outbox.held for outbox in outboxes} == {100 + OVERHEAD}
    for outbox in outboxes[:-1]:
        budget.release_frame(outbox, frame)
    assert budget.used == 100 + OVERHEAD
    budget.release_frame(outboxes[-1], frame)
    assert budget.used == 0
    assert not any(outbox.has_given_up for outbox in outboxes)


def test_each_kind_is_shown_from_the_start(budget):
    """A counter that does not exist cannot be watched."""
    [family] = budget.given_up.collect()
    assert {sample.labels["kind"]: sample.value for sample in family.samples} == dict.fromkeys(KINDS, 0)


@pytest.fixture
def machine(tmp_path):
    """Build /proc and /sys/fs/cgroup of a machine with 8 GiB. Return what a process there may use."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree:           10 kB\n")

    def look(membership, **limits):
        (proc / "self" / "cgroup").write_text(membership)
        for place, limit in limits.items():
            file = cgroups / place.replace("__", "/").replace("_DOT_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(limit)
        return available_memory(proc, cgroups)

    return look


def test_memory_of_the_machine(machine):
    """Where no cgroup limits it."""
    assert machine("0::/\n") == 8192 * MIB
    assert machine("0::/user\n", user__memory_DOT_max="max\n") == 8192 * MIB


def test_memory_of_a_cgroup(machine):
    """The smallest limit of the cgroup and those around it, in version 2 as in version 1."""
    own, around = str(512 * MIB), str(256 * MIB)
    assert machine("0::/system/att\n", system__att__memory_DOT_max=own) == 512 * MIB
    assert machine("0::/system/att\n", system__memory_DOT_max=around) == 256 * MIB
    assert machine("9:cpu:/\n4:memory:/a\n0::/\n", memory__a__memory_DOT_limit_in_bytes=str(128 * MIB)) == 128 * MIB


def test_memory_of_a_container(machine):
    """It sees its own cgroup at the root."""
    assert machine("0::/\n", memory_DOT_max=str(64 * MIB)) == 64 * MIB


def test_a_system_that_does_not_tell(tmp_path):
    """Something is assumed."""
    assert available_memory(tmp_path, tmp_path) == 1024 * MIB
