"""Rules of permission: the whole table."""

from dataclasses import FrozenInstanceError
from uuid import UUID

import pytest

from att.core.permissions import Actor, Permission, Standing, Who, check, check_covers, check_permits, permits
from att.errors import Forbidden, NotAMember, NotAnOwner, NotPermitted, NotYou

ME, OTHER = UUID(int=1), UUID(int=2)
OK = None

# For each rule the outcome by one's own role in the group, first for oneself and then for another as the target.
TABLE = {
    #                      oneself: none, member, owner              another: none, member, owner
    Who.ANYONE: ((OK, OK, OK), (OK, OK, OK)),
    Who.SIGNED_IN: ((OK, OK, OK), (OK, OK, OK)),
    Who.PERMITTED: ((NotPermitted,) * 3, (NotPermitted,) * 3),
    Who.ONESELF: ((OK, OK, OK), (NotYou, NotYou, NotYou)),
    Who.FELLOW: ((OK, OK, OK), (NotYou, NotYou, NotYou)),
    Who.MEMBER: ((NotAMember, OK, OK), (NotAMember, OK, OK)),
    Who.VISITOR: ((NotAMember, OK, OK), (NotAMember, OK, OK)),
    Who.POSTER: ((NotAMember, OK, OK), (NotAMember, OK, OK)),
    Who.OWNER: ((NotAMember, NotAnOwner, OK), (NotAMember, NotAnOwner, OK)),
    Who.OWNER_OR_ONESELF: ((NotAMember, OK, OK), (NotAMember, NotAnOwner, OK)),
    Who.OWNER_OR_SENDER: ((OK, OK, OK), (NotAMember, NotAnOwner, OK)),
    Who.OWNER_OR_JOINER: ((NotAMember, NotAnOwner, OK), (NotAMember, NotAnOwner, OK)),
}
# What is different in a group that anyone may join, and in one in which only owners broadcast.
OPEN = {
    Who.VISITOR: ((OK, OK, OK), (OK, OK, OK)),
    Who.OWNER_OR_JOINER: ((OK, OK, OK), (NotAMember, NotAnOwner, OK)),
}
OWNERS_POST = {Who.POSTER: ((NotAMember, NotAnOwner, OK), (NotAMember, NotAnOwner, OK))}
CELLS = [
    pytest.param(who, Standing(role, join, post), target, outcome, id=f"{who.name}-{join}-{post}-{role}-{place}")
    for join, post, table in (
        ("invite", "members", TABLE),
        ("open", "members", TABLE | OPEN),
        ("invite", "owners", TABLE | OWNERS_POST),
        ("open", "owners", TABLE | OPEN | OWNERS_POST),
    )
    for who, halves in table.items()
    for place, target, outcomes in zip(("self", "other"), (ME, OTHER), halves, strict=True)
    for role, outcome in zip((None, "member", "owner"), outcomes, strict=True)
]


def test_table_is_whole():
    """The table has every rule."""
    assert set(TABLE) == set(Who)
    assert len(CELLS) == len(Who) * 3 * 2 * 4


@pytest.mark.parametrize(("who", "standing", "target", "outcome"), CELLS)
def test_check(who, standing, target, outcome):
    """Each cell of the table holds."""
    if outcome is OK:
        check(who, actor=ME, target=target, standing=standing)
        return
    with pytest.raises(Forbidden) as caught:
        check(who, actor=ME, target=target, standing=standing)
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
    """A path without a user is not the user's own."""
    if outcome is OK:
        check(who, actor=ME, standing=Standing(role))
        return
    with pytest.raises(outcome):
        check(who, actor=ME, standing=Standing(role))


def test_rules_read_as_sentences():
    """Each rule has its own wording for the documentation."""
    sentences = [who.value for who in Who]
    assert all(sentences)
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("wanted", Permission)
def test_permits(wanted):
    """A permission is granted by its name or by the one for everything, and by no other."""
    others = set(Permission) - {wanted, Permission.EVERYTHING}
    for held, may in (({wanted}, True), ({"*"}, True), (others, False), (set(), False)):
        assert permits(held, wanted) is may
        if may:
            check_permits(held, wanted)
        else:
            with pytest.raises(NotPermitted, match=wanted.replace("*", r"\*")):
                check_permits(held, wanted)


@pytest.mark.parametrize(
    ("held", "others", "missing"),
    [
        ({"*"}, {"*"}, None),
        ({"*"}, {"users.read"}, None),
        ({"users.read", "users.write"}, {"users.read"}, None),
        (set(), set(), None),
        ({"users.read"}, {"*"}, r"\*"),
        (set(Permission) - {"*"}, {"*"}, r"\*"),
        ({"users.read"}, {"users.write", "roles.read", "users.read"}, r"roles\.read, users\.write\."),
    ],
)
def test_check_covers(held, others, missing):
    """A user without all permissions of a role may not assign it, and learns which are missing."""
    if missing is None:
        check_covers(held, others)
        return
    with pytest.raises(NotPermitted, match=missing):
        check_covers(held, others)


def test_actor_is_a_value():
    """Actors with equal fields are equal, and immutable."""
    actor = Actor(ME, OTHER, "r1")
    assert actor == Actor(ME, OTHER, "r1")
    with pytest.raises(FrozenInstanceError):
        actor.user_id = OTHER
