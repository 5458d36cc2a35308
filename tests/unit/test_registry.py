"""The registry: who is connected here."""

from itertools import product
from uuid import UUID

import pytest
from doubles import is_empty
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from att.realtime.registry import Dialect, Listener, Registry, Span

ANN, BEN, CAT = (UUID(int=number) for number in (1, 2, 3))
SESSION, OTHER_SESSION = UUID(int=21), UUID(int=22)


@pytest.fixture
def registry():
    return Registry()


def listener_of(user_id, session_id=SESSION):
    """Return an unattached listener; the registry never uses its connection."""
    return Listener(user_id, session_id, connection=None)


def attached(registry, user_id, session_id=SESSION):
    """A listener that has been let in."""
    listener = listener_of(user_id, session_id)
    registry.attach(listener)
    return listener


def test_attach(registry):
    """Once attached it is found by its user and its session."""
    listener = listener_of(ANN)
    assert listener not in registry
    registry.attach(listener)
    assert listener in registry
    assert registry.of_user(ANN) == registry.of_session(SESSION) == registry.everyone() == (listener,)
    assert (registry.users(), registry.sessions(), len(registry)) == ([ANN], {SESSION: ANN}, 1)


def test_detach(registry):
    """Detached, it is found nowhere; the user's other listeners are."""
    phone, laptop = attached(registry, ANN), attached(registry, ANN, OTHER_SESSION)
    registry.detach(phone)
    assert phone not in registry
    assert registry.of_user(ANN) == registry.everyone() == registry.of_session(OTHER_SESSION) == (laptop,)
    assert registry.of_session(SESSION) == ()


@pytest.mark.parametrize("times", [1, 2])
def test_nothing_is_left_behind(registry, times):
    """After the last detach the registry is as empty as a new one, also if it is repeated."""
    listeners = [attached(registry, ANN), attached(registry, ANN), attached(registry, BEN, OTHER_SESSION)]
    assert not is_empty(registry)
    for listener in listeners * times:
        registry.detach(listener)
    assert is_empty(registry)
    assert len(registry) == 0


def test_strangers_leave_no_trace(registry):
    """Asking for and detaching those who are not here takes no memory."""
    registry.detach(listener_of(ANN))
    assert listener_of(ANN) not in registry
    assert registry.of_user(ANN) == registry.of_session(SESSION) == registry.everyone() == ()
    assert is_empty(registry)


def test_answers_are_copies(registry):
    """Listeners may be detached while an answer is walked."""
    for _ in range(5):
        attached(registry, ANN)
    for ask in (lambda: registry.of_user(ANN), lambda: registry.of_session(SESSION), registry.everyone):
        for listener in ask():
            registry.detach(listener)
            attached(registry, ANN)
        assert len(ask()) == 5


@pytest.mark.parametrize("seqs", [(4, 7, 9), (9, 4, 7), (7, 7, 9, 4)])
def test_span(seqs):
    """A span has the lowest and the highest seq, in whatever order they came."""
    span = Span(seqs[0], seqs[0])
    for seq in seqs:
        span = span.widened(seq)
    assert span == (4, 9)


LISTENERS = st.integers(0, 5)


class RegistryIsASet(RuleBasedStateMachine):
    """The registry, beside a model that is nothing but the set of those who are attached."""

    def __init__(self):
        super().__init__()
        self.registry = Registry()
        self.listeners = [listener_of(*ids) for ids in product((ANN, BEN, CAT), (SESSION, OTHER_SESSION))]
        for listener in self.listeners[::2]:
            listener.dialect = Dialect.V1
        self.attached = set()

    @rule(number=LISTENERS)
    def attach(self, number):
        self.registry.attach(self.listeners[number])
        self.attached.add(self.listeners[number])

    @rule(number=LISTENERS)
    def detach(self, number):
        self.registry.detach(self.listeners[number])
        self.attached.discard(self.listeners[number])

    @invariant()
    def finds_who_is_attached(self):
        assert len(self.registry) == len(self.attached) == len(self.registry.everyone())
        assert set(self.registry.everyone()) == self.attached
        for dialect in Dialect:
            assert self.registry.sockets[dialect] == sum(listener.dialect is dialect for listener in self.attached)
        for user_id in (ANN, BEN, CAT):
            of_user = {listener for listener in self.attached if listener.user_id == user_id}
            assert set(self.registry.of_user(user_id)) == of_user
            assert (user_id in self.registry.users()) == bool(of_user)
        for session_id in (SESSION, OTHER_SESSION):
            of_session = {listener for listener in self.attached if listener.session_id == session_id}
            assert set(self.registry.of_session(session_id)) == of_session
            assert (session_id in self.registry.sessions()) == bool(of_session)

    @precondition(lambda self: not self.attached)
    @invariant()
    def is_empty_when_all_have_gone(self):
        assert is_empty(self.registry)


RegistryIsASet.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestRegistryIsASet = RegistryIsASet.TestCase
