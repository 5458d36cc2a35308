"""The registry: who is connected here, and what they hear."""

from itertools import product
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from att.realtime.registry import Listener, Registry

ANN, BEN, CAT = (UUID(int=number) for number in (1, 2, 3))
TEA, PIE, JAM = (UUID(int=number) for number in (11, 12, 13))
SESSION, OTHER_SESSION = UUID(int=21), UUID(int=22)


@pytest.fixture
def registry():
    return Registry()


def listener_of(user_id, session_id=SESSION):
    """A listener that is not attached; the registry never looks at its connection."""
    return Listener(user_id, session_id, connection=None)


def attached(registry, user_id, *groups, session_id=SESSION):
    """A listener that has been let in, and hears these groups."""
    listener = listener_of(user_id, session_id)
    registry.attach(listener)
    registry.settle(listener, groups)
    return listener


def is_empty(registry):
    """Whether the registry holds nothing at all, not even an empty set."""
    return not any(vars(registry).values())


def hears(registry, listener):
    """The groups that a listener hears, as the registry delivers to it."""
    groups = {group for group in (TEA, PIE, JAM) if listener in registry.of_group(group)}
    assert groups == listener.groups
    return groups


def test_attach(registry):
    """Once attached it is found by its user and its session, and hears no group."""
    listener = listener_of(ANN)
    registry.attach(listener)
    assert registry.of_user(ANN) == registry.of_session(SESSION) == registry.everyone() == (listener,)
    assert hears(registry, listener) == set()
    assert len(registry) == 1


def test_settle(registry):
    """Settled, it hears the groups that were read."""
    listener = attached(registry, ANN, TEA, PIE)
    assert hears(registry, listener) == {TEA, PIE}
    assert registry.of_group(JAM) == ()


def test_settle_is_once(registry):
    """What is read again later gives nothing: from settling on, joins and leaves tell everything."""
    listener = attached(registry, ANN, TEA)
    registry.leave(TEA, ANN)
    registry.settle(listener, [TEA, PIE])
    assert hears(registry, listener) == set()


def test_settle_takes_any_iterable(registry):
    """The groups may be read as they come, and come twice."""
    listener = listener_of(ANN)
    registry.attach(listener)
    registry.settle(listener, iter([TEA, TEA, PIE]))
    assert hears(registry, listener) == {TEA, PIE}


def test_join_and_leave(registry):
    """They reach every listener of the user, and nobody else's."""
    phone, laptop, other = attached(registry, ANN), attached(registry, ANN), attached(registry, BEN)
    registry.join(TEA, ANN)
    registry.join(PIE, ANN)
    assert set(registry.of_group(TEA)) == {phone, laptop}
    registry.leave(TEA, ANN)
    assert [hears(registry, listener) for listener in (phone, laptop, other)] == [{PIE}, {PIE}, set()]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_repeats_change_nothing(registry, times):
    """Joining twice is joining once, and leaving twice is leaving once."""
    listener = attached(registry, ANN)
    for _ in range(times):
        registry.join(TEA, ANN)
    assert registry.of_group(TEA) == (listener,)
    for _ in range(times):
        registry.leave(TEA, ANN)
    assert registry.of_group(TEA) == ()


def test_drop(registry):
    """Nobody hears a dropped group; the others are heard as before."""
    ann, ben = attached(registry, ANN, TEA, PIE), attached(registry, BEN, TEA)
    registry.drop(TEA)
    assert (hears(registry, ann), hears(registry, ben)) == ({PIE}, set())
    registry.drop(JAM)
    assert hears(registry, ann) == {PIE}


def test_detach(registry):
    """Detached, it is found nowhere; the user's other listeners are."""
    phone = attached(registry, ANN, TEA)
    laptop = attached(registry, ANN, TEA, session_id=OTHER_SESSION)
    registry.detach(phone)
    assert registry.of_group(TEA) == registry.of_user(ANN) == registry.everyone() == (laptop,)
    assert registry.of_session(SESSION) == ()
    assert registry.of_session(OTHER_SESSION) == (laptop,)
    assert hears(registry, phone) == set()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("is_settled", [True, False])
def test_nothing_is_left_behind(registry, times, is_settled):
    """When the last has gone the registry is as empty as a new one, however often they are told to go."""
    listeners = [listener_of(ANN), listener_of(ANN), listener_of(BEN, OTHER_SESSION)]
    for listener in listeners:
        registry.attach(listener)
        if is_settled:
            registry.settle(listener, [TEA, PIE])
    registry.join(JAM, ANN)
    registry.leave(JAM, BEN)
    assert not is_empty(registry)
    for listener in listeners * times:
        registry.detach(listener)
    assert is_empty(registry)
    assert len(registry) == 0


def test_strangers_leave_no_trace(registry):
    """Asking for, joining, leaving and detaching those who are not here takes no memory."""
    registry.join(TEA, ANN)
    registry.leave(TEA, ANN)
    registry.drop(TEA)
    registry.detach(listener_of(ANN))
    registry.settle(listener_of(ANN), [TEA])
    assert registry.of_group(TEA) == registry.of_user(ANN) == registry.of_session(SESSION) == registry.everyone() == ()
    assert is_empty(registry)


def test_left_group_leaves_no_trace(registry):
    """A group that nobody hears any more is forgotten, though its listeners stay."""
    attached(registry, ANN, TEA, PIE)
    registry.leave(TEA, ANN)
    registry.drop(PIE)
    assert not registry._groups


RACES = [
    (["leave"], False),
    (["drop"], False),
    (["join"], True),
    (["join", "leave"], False),
    (["join", "drop"], False),
    (["leave", "join"], True),
    (["drop", "join"], True),
    (["leave", "join", "leave"], False),
]


def happen(registry, verb, group_id, user_id):
    """A change of membership, by name."""
    changes = {"join": registry.join, "leave": registry.leave}
    registry.drop(group_id) if verb == "drop" else changes[verb](group_id, user_id)


@pytest.mark.parametrize("was_read", [True, False])
@pytest.mark.parametrize(("changes", "is_heard"), RACES, ids=["-".join(changes) for changes, _ in RACES])
def test_change_outweighs_what_was_read(registry, changes, is_heard, was_read):
    """What changes between attaching and settling is newer than what was read, so that it holds."""
    listener = listener_of(ANN)
    registry.attach(listener)
    for verb in changes:
        happen(registry, verb, TEA, ANN)
    registry.settle(listener, [TEA, PIE] if was_read else [PIE])
    assert hears(registry, listener) == ({TEA, PIE} if is_heard else {PIE})


def test_join_is_heard_before_settling(registry):
    """A join reaches a listener that is not settled yet."""
    listener = listener_of(ANN)
    registry.attach(listener)
    registry.join(TEA, ANN)
    assert registry.of_group(TEA) == (listener,)


def test_others_leaving_does_not_count(registry):
    """Only one's own leaving outweighs what was read."""
    listener = listener_of(ANN)
    registry.attach(listener)
    registry.leave(TEA, BEN)
    registry.drop(PIE)
    registry.settle(listener, [TEA, PIE])
    assert hears(registry, listener) == {TEA}


def test_leave_before_attach_does_not_count(registry):
    """What was read after attaching knows already what had changed before."""
    registry.leave(TEA, ANN)
    registry.drop(TEA)
    assert hears(registry, attached(registry, ANN, TEA)) == {TEA}


def test_settle_after_detach_does_nothing(registry):
    """Whoever went while its groups were read does not come back by them."""
    listener = listener_of(ANN)
    registry.attach(listener)
    registry.detach(listener)
    registry.settle(listener, [TEA])
    assert registry.of_group(TEA) == ()
    assert is_empty(registry)


def test_answers_are_copies(registry):
    """Listeners may be detached while an answer is walked."""
    for _ in range(5):
        attached(registry, ANN, TEA)
    for ask in (lambda: registry.of_group(TEA), lambda: registry.of_user(ANN), registry.everyone):
        for listener in ask():
            registry.detach(listener)
            attached(registry, ANN, TEA)
        assert len(ask()) == 5


LISTENERS = st.integers(0, 5)
USERS, GROUPS = st.sampled_from([ANN, BEN, CAT]), st.sampled_from([TEA, PIE, JAM])


class RegistryIsThePairs(RuleBasedStateMachine):
    """The registry, beside a model that is nothing but pairs of listener and group, and what happened meanwhile."""

    def __init__(self):
        super().__init__()
        self.registry = Registry()
        self.listeners = [listener_of(*ids) for ids in product((ANN, BEN, CAT), (SESSION, OTHER_SESSION))]
        self.attached = set()
        self.pairs = set()
        self.meanwhile = {}  # for whoever is not settled, the last that happened to each group: whether it was a join

    def of(self, user_id):
        """The user's attached listeners."""
        return {listener for listener in self.attached if listener.user_id == user_id}

    def change(self, listeners, group_id, *, is_join):
        """Whoever is among the listeners hears the group, or does not."""
        for listener in listeners:
            (self.pairs.add if is_join else self.pairs.discard)((listener, group_id))
            if listener in self.meanwhile:
                self.meanwhile[listener][group_id] = is_join

    @rule(number=LISTENERS)
    def attach(self, number):
        listener = self.listeners[number]
        if listener not in self.attached:
            self.registry.attach(listener)
            self.attached.add(listener)
            self.meanwhile[listener] = {}

    @rule(number=LISTENERS, groups=st.lists(GROUPS))
    def settle(self, number, groups):
        listener = self.listeners[number]
        self.registry.settle(listener, groups)
        if listener in self.meanwhile:
            happened = self.meanwhile.pop(listener)
            self.pairs |= {(listener, group) for group in groups if happened.get(group, True)}

    @rule(user_id=USERS, group_id=GROUPS)
    def join(self, user_id, group_id):
        self.registry.join(group_id, user_id)
        self.change(self.of(user_id), group_id, is_join=True)

    @rule(user_id=USERS, group_id=GROUPS)
    def leave(self, user_id, group_id):
        self.registry.leave(group_id, user_id)
        self.change(self.of(user_id), group_id, is_join=False)

    @rule(group_id=GROUPS)
    def drop(self, group_id):
        self.registry.drop(group_id)
        self.change(self.attached, group_id, is_join=False)

    @rule(number=LISTENERS)
    def detach(self, number):
        listener = self.listeners[number]
        self.registry.detach(listener)
        self.attached.discard(listener)
        self.meanwhile.pop(listener, None)
        self.pairs = {(other, group) for other, group in self.pairs if other is not listener}

    @invariant()
    def hears_what_the_pairs_say(self):
        for group_id in (TEA, PIE, JAM):
            found = self.registry.of_group(group_id)
            assert len(found) == len(set(found))
            assert set(found) == {listener for listener, group in self.pairs if group == group_id}
        for listener in self.listeners:
            assert listener.groups == {group for other, group in self.pairs if other is listener}

    @invariant()
    def finds_who_is_attached(self):
        assert len(self.registry) == len(self.attached) == len(self.registry.everyone())
        assert set(self.registry.everyone()) == self.attached
        for user_id in (ANN, BEN, CAT):
            assert set(self.registry.of_user(user_id)) == self.of(user_id)
        for session_id in (SESSION, OTHER_SESSION):
            of_session = {listener for listener in self.attached if listener.session_id == session_id}
            assert set(self.registry.of_session(session_id)) == of_session

    @invariant()
    def holds_no_empty_set(self):
        for index in (self.registry._users, self.registry._sessions, self.registry._groups):
            assert all(index.values())

    @precondition(lambda self: not self.attached)
    @invariant()
    def is_empty_when_all_have_gone(self):
        assert is_empty(self.registry)


RegistryIsThePairs.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestRegistryIsThePairs = RegistryIsThePairs.TestCase
