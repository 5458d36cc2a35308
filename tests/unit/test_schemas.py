"""Shapes of requests and responses."""

import json
from datetime import UTC, date, datetime
from uuid import UUID

import pytest
from pydantic import ValidationError

from att.api import schemas
from att.core import pagination
from att.groups import queries
from att.http.schemas import PageOut

ID = UUID("0f2a7c1e-5b3d-4c8f-9a6e-1d2b3c4d5e6f")
AT = datetime(2026, 11, 22, 2, 34, 56, tzinfo=UTC)


@pytest.mark.parametrize(
    ("shape", "value", "defaults"),
    [
        (schemas.NewAccountIn, {"login": "ann", "password": "correct horse"}, {}),
        (schemas.CredentialsIn, {"login": "ann", "password": "correct horse"}, {}),
        (schemas.CredentialsIn, {"login": "ann", "password": ""}, {}),
        (
            schemas.NewGroupIn,
            {"name": "tea"},
            {"join": "invite", "post": "members", "retention": 1000, "history": "since_join"},
        ),
        (schemas.NewGroupIn, {"name": "tea", "join": "open", "post": "owners", "retention": 0, "history": "all"}, {}),
        (schemas.NewRoleIn, {"name": "Support"}, {"permissions": []}),
        (schemas.NewRoleIn, {"name": "Support", "permissions": ["users.read", "*"]}, {}),
        (
            schemas.NewUserIn,
            {"login": "ann"},
            {"password": None, "first_name": "", "last_name": "", "birth_date": None, "role": "User", "active": True},
        ),
    ],
)
def test_request(shape, value, defaults):
    """Valid input is read as it is, with defaults for the rest."""
    assert shape.model_validate(value).model_dump() == value | defaults


CHANGES = [
    (
        schemas.GroupChangeIn,
        {"name": "tea", "join": "open", "post": "owners", "retention": 1_000_000, "history": "all"},
    ),
    (schemas.MemberChangeIn, {"role": "owner"}),
    (schemas.RoleChangeIn, {"name": "Support", "permissions": ["users.read"]}),
    (
        schemas.UserChangeIn,
        {
            "login": "ann",
            "password": "correct horse",
            "current_password": "x",
            "first_name": "",
            "last_name": "Lee",
            "birth_date": None,
            "role": "Admin",
            "active": False,
        },
    ),
]


@pytest.mark.parametrize(("shape", "members"), CHANGES)
def test_change(shape, members):
    """A change has only the given fields: none is required, and none has a default."""
    assert set(members) == set(shape.model_fields)
    assert shape.model_validate({}).model_dump(exclude_unset=True) == {}
    for name, value in members.items():
        assert shape.model_validate({name: value}).model_dump(exclude_unset=True) == {name: value}
    assert shape.model_validate(members).model_dump(exclude_unset=True) == members


@pytest.mark.parametrize(("shape", "members"), CHANGES)
def test_change_to_nothing(shape, members):
    """No field can be set to null, except those that may be unknown: a birth date."""
    for name in members.keys() - {"birth_date"}:
        with pytest.raises(ValidationError):
            shape.model_validate({name: None})


def test_request_is_normalised():
    """Names and passwords are converted to NFC."""
    account = schemas.NewAccountIn(login="Rene\u0301", password="cafe\u0301 au lait")
    assert (account.login, account.password) == ("Ren\u00e9", "caf\u00e9 au lait")
    assert schemas.CredentialsIn(login="Rene\u0301", password="e\u0301").password == "\u00e9"
    assert schemas.NewGroupIn(name="cafe\u0301").name == schemas.GroupChangeIn(name="cafe\u0301").name == "caf\u00e9"


def test_dates():
    """A date is one of the calendar, written as in RFC 3339."""
    assert schemas.NewUserIn(login="ann", birth_date="2000-02-29").birth_date == date(2000, 2, 29)
    for text in (
        "2001-02-29",
        "2000-2-29",
        "20000229",
        "2000-02-29T00:00:00",
        " 2000-02-29",
        "0000-01-01",
        "",
        5,
        True,
    ):
        with pytest.raises(ValidationError):
            schemas.NewUserIn(login="ann", birth_date=text)


def test_new_members():
    """A list has one to a thousand ids, in either case, in order."""
    ids = [UUID(int=number) for number in range(schemas.MANY)]
    assert schemas.NewMembersIn.model_validate({"user_ids": [str(one) for one in ids]}).user_ids == ids
    assert schemas.NewMembersIn.model_validate({"user_ids": [str(ID).upper()] * 2}).user_ids == [ID, ID]
    for wrong in ([], [str(ID)] * (schemas.MANY + 1), [ID.hex], [str(ID), None], [5], str(ID), None):
        with pytest.raises(ValidationError):
            schemas.NewMembersIn.model_validate({"user_ids": wrong})


@pytest.mark.parametrize("following", [None, "cursor"])
def test_page(following):
    """A page is made from the domain's, with items and cursor."""
    page = pagination.Page([queries.GroupView(ID, "tea", "open", "owners", 7, "all", AT, 12, None)], following)
    answer = json.loads(PageOut[schemas.GroupOut].model_validate(page).model_dump_json())
    rules = {"join": "open", "post": "owners", "retention": 7, "history": "all"}
    own = {"role": None, "read": 0, "unread": None}
    group = {"id": str(ID), "name": "tea", **rules, "created_at": "2026-11-22T02:34:56Z", "seq": 12, **own}
    assert answer == {"items": [group], "next": following}


def test_items():
    """Items and members are made from the domain's."""
    members = [queries.MemberView(ID, "ann", "Ann", "Lee", "member", AT)]
    names = {"login": "ann", "first_name": "Ann", "last_name": "Lee"}
    member = {"user_id": ID, **names, "role": "member", "joined_at": AT}
    assert schemas.MemberOut.model_validate(members[0]).model_dump() == member
    answer = schemas.ItemsOut[schemas.MemberOut].model_validate({"items": members})
    assert answer.model_dump() == {"items": [member]}


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        (schemas.CredentialsIn, {"login": 1, "password": ["hush hush"]}),
        (schemas.NewAccountIn, {"login": "ann", "password": "hush hush", "more": "hush hush"}),
        (schemas.NewUsersIn, [{"login": "ann", "password": ["hush hush"]}]),
        (schemas.UserChangesIn, [{"id": "hush hush", "password": "hush"}]),
        (schemas.SignedInOut, {"token": ["hush hush"], "user_id": "hush hush"}),
    ],
)
def test_input_is_not_in_the_error(shape, value):
    """An error does not repeat input, since it may be logged."""
    with pytest.raises(ValidationError) as error:
        shape.model_validate(value)
    assert "hush" not in str(error.value)
