"""The hub under any order of events: each listener receives its user's events, once and in order."""

import random

import pytest
from hypothesis import given, note, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from world import World, make_narrow

LONGEST = 300  # things that happen in one walk


@pytest.fixture(autouse=True, scope="module")
def narrow():
    """Bounds that are met all the time."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_narrow(monkeypatch)
        yield


class Anything(RuleBasedStateMachine):
    """A world in which anything happens, until it comes to rest and everyone leaves. Each frame is checked."""

    world = None

    @initialize(has_trims=st.booleans())
    def begin(self, has_trims):
        self.world = World(has_trims=has_trims)

    @rule(choice=st.integers(0, 99), number=st.integers(0, 999))
    def go_on(self, choice, number):
        note(self.world.go_on(choice, number))

    def teardown(self):
        if self.world:
            self.world.rest()
            self.world.leave()


Anything.TestCase.settings = settings(max_examples=250, stateful_step_count=60, deadline=None)
TestAnything = Anything.TestCase


@settings(max_examples=2000, deadline=None)
@given(seed=st.integers(0, 2**64), has_trims=st.booleans())
def test_walks(seed, has_trims):
    """The same along walks that are longer than those which hypothesis takes step by step."""
    world, chance = World(has_trims=has_trims), random.Random(seed)
    for _ in range(chance.randrange(LONGEST)):
        world.go_on(chance.randrange(10**6), chance.randrange(1000))
    world.rest()
    world.leave()
