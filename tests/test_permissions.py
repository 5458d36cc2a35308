"""Who may do what: the whole table."""

from dataclasses import FrozenInstanceError
from uuid import UUID

import pytest

from att.errors import Forbidden, NotAMember, NotAnOwner, NotYou
from att.permissions import Actor, Who, check

ME, OTHER = UUID(int=1), UUID(int=2)
OK = None

# For each rule the outcome by one's own role in the group, first for oneself and then for another as the target.
TABLE = {
    #                      oneself: none, member, owner              another: none, member, owner
    Who.ANYONE: ((OK, OK, OK), (OK, OK, OK)),
    Who.SIGNED_IN: ((OK, OK, OK), (OK, OK, OK)),
    Who.ONESELF: ((OK, OK, OK), (NotYou, NotYou, NotYou)),
    Who.MEMBER: ((NotAMember, OK, OK), (NotAMember, OK, OK)),
    Who.OWNER: ((NotAMember, NotAnOwner, OK), (NotAMember, NotAnOwner, OK)),
    Who.OWNER_OR_ONESELF: ((NotAMember, OK, OK), (NotAMember, NotAnOwner, OK)),
}
CELLS = [
    pytest.param(who, role, target, outcome, id=f"{who.name}-{role}-{'self' if target == ME else 'other'}")
    for who, halves in TABLE.items()
    for target, outcomes in zip((ME, OTHER), halves, strict=True)
    for role, outcome in zip((None, "member", "owner"), outcomes, strict=True)
]


def test_table_is_whole():
    """No rule is left out."""
    assert set(TABLE) == set(Who)
    assert len(CELLS) == len(Who) * 3 * 2


@pytest.mark.parametrize(("who", "role", "target", "outcome"), CELLS)
def test_check(who, role, target, outcome):
    """Each cell of the table is as it stands there."""
    if outcome is OK:
        check(who, actor=ME, target=target, role=role)
        return
    with pytest.raises(Forbidden) as caught:
        check(who, actor=ME, target=target, role=role)
    assert caught.type is outcome


@pytest.mark.parametrize(
    ("who", "role", "outcome"),
    [
        (Who.ANYONE, None, OK),
        (Who.SIGNED_IN, None, OK),
        (Who.ONESELF, "owner", NotYou),
        (Who.MEMBER, "member", OK),
        (Who.OWNER, "owner", OK),
        (Who.OWNER_OR_ONESELF, "member", NotAnOwner),
        (Who.OWNER_OR_ONESELF, "owner", OK),
    ],
)
def test_check_without_target(who, role, outcome):
    """A path without a user in it is nobody's own."""
    if outcome is OK:
        check(who, actor=ME, role=role)
        return
    with pytest.raises(outcome):
        check(who, actor=ME, role=role)


def test_rules_read_as_sentences():
    """Each rule has a sentence of its own for the documentation."""
    sentences = [who.value for who in Who]
    assert all(sentences)
    assert len(set(sentences)) == len(sentences)


def test_actor_is_a_value():
    """An actor is compared by what it says, and does not change on the way to the database."""
    actor = Actor(ME, OTHER, "r1")
    assert actor == Actor(ME, OTHER, "r1")
    with pytest.raises(FrozenInstanceError):
        actor.user_id = OTHER
