"""The shapes of requests and answers, and how a fault in one is told."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from att import groups, paging, payloads
from att.errors import InvalidInput
from att.paging import Cursor

ID = UUID("0f2a7c1e-5b3d-4c8f-9a6e-1d2b3c4d5e6f")
AT = datetime(2026, 11, 22, 2, 34, 56, tzinfo=UTC)
CURSOR = Cursor(AT, ID)
NO_CURSOR = "is not a cursor of this list; take it from 'next' of the page before"
NO_STRING = "input should be a valid string"
SECRET = "hunter2"


def faults(shape, value):
    """What is said about a value that does not fit, as field and message."""
    with pytest.raises(ValidationError) as caught:
        shape.model_validate(value)
    return dict(payloads.explain(caught.value).fields)


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        (payloads.NewAccount, {"login": "ann", "password": "correct horse"}),
        (payloads.Credentials, {"login": "ann", "password": "correct horse"}),
        (payloads.Credentials, {"login": "ann", "password": ""}),
        (payloads.NewGroup, {"name": "tea"}),
        (payloads.Nothing, {}),
    ],
)
def test_request(shape, value):
    """What fits is read as it is."""
    assert shape.model_validate(value).model_dump() == value


def test_request_is_normalised():
    """Names and passwords are in NFC from here on."""
    account = payloads.NewAccount(login="Rene\u0301", password="cafe\u0301 au lait")
    assert (account.login, account.password) == ("Ren\u00e9", "caf\u00e9 au lait")
    assert payloads.Credentials(login="Rene\u0301", password="e\u0301").password == "\u00e9"
    assert payloads.NewGroup(name="cafe\u0301").name == "caf\u00e9"


@pytest.mark.parametrize(
    ("shape", "value", "expected"),
    [
        (payloads.NewAccount, {}, {"login": "is missing", "password": "is missing"}),
        (
            payloads.NewAccount,
            {"login": " ann", "password": "12345", "admin": True, "extra": 1},
            {
                "login": "must not begin or end with a space",
                "password": "must have at least 6 characters",
                "admin": "unknown member",
                "extra": "unknown member",
            },
        ),
        (
            payloads.NewAccount,
            {"login": 1, "password": None},
            {"login": NO_STRING, "password": NO_STRING},
        ),
        (
            payloads.Credentials,
            {"password": "a" * 1025, "Login": "ann"},
            {"login": "is missing", "password": "must have at most 1024 bytes", "Login": "unknown member"},
        ),
        (payloads.NewGroup, {"name": "a/b"}, {"name": "must not contain '/', or be '.' or '..'"}),
        (payloads.NewGroup, {"name": str(ID)}, {"name": "must not be a UUID"}),
        (payloads.NewGroup, {"name": ["tea"]}, {"name": NO_STRING}),
        (payloads.NewGroup, {"name": b"tea"}, {"name": NO_STRING}),
        (payloads.Nothing, {"role": "owner"}, {"role": "unknown member"}),
        (payloads.PageQuery, {"limit": "0", "after": "tea"}, {"limit": ..., "after": NO_CURSOR}),
        (payloads.PageQuery, {"limit": "201"}, {"limit": "input should be less than or equal to 200"}),
        (payloads.PageQuery, {"limit": "many"}, {"limit": ...}),
        (payloads.PageQuery, {"limit": "9" * 5000}, {"limit": ...}),
        (payloads.PageQuery, {"after": ""}, {"after": NO_CURSOR}),
    ],
)
def test_every_fault_is_told(shape, value, expected):
    """All faults come at once, each under the name of its member; unknown members are named."""
    found = faults(shape, value)
    assert found.keys() == expected.keys()
    assert all(found[field] == message for field, message in expected.items() if message is not ...)


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", [], [{"name": "tea"}]])
@pytest.mark.parametrize("shape", [payloads.NewAccount, payloads.Credentials, payloads.NewGroup, payloads.Nothing])
def test_not_an_object(shape, value):
    """What is no object is one fault, of the body."""
    assert faults(shape, value) == {"body": "must be a JSON object"}


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        (payloads.NewAccount, {"login": f" {SECRET}", "password": SECRET[:5]}),
        (payloads.NewAccount, {"login": f"{SECRET}\0", "password": SECRET * 200}),
        (payloads.NewAccount, {"login": [SECRET], "password": {SECRET: SECRET}}),
        (payloads.NewAccount, SECRET),
        (payloads.NewGroup, {"name": f"{SECRET}/", "extra": SECRET}),
        (payloads.PageQuery, {"limit": SECRET, "after": SECRET}),
    ],
)
def test_input_is_not_repeated(shape, value):
    """What was sent does not come back in the answer, nor get into logs that way."""
    with pytest.raises(ValidationError) as caught:
        shape.model_validate(value)
    invalid = payloads.explain(caught.value)
    assert isinstance(invalid, InvalidInput)
    assert SECRET[:5] not in f"{invalid} {invalid.detail} {invalid.fields}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
)


@given(JSON | st.fixed_dictionaries({"login": JSON, "password": JSON}))
def test_any_json_is_read_or_explained(value):
    """Every JSON value fits, or has at least one fault, each with the name of a member and a message."""
    explained = None
    try:
        payloads.NewAccount.model_validate(value)
    except ValidationError as error:
        explained = payloads.explain(error).fields
    assert explained is None or all(field and message for field, message in explained)
    assert explained != []


@pytest.mark.parametrize(
    ("query", "limit", "after"),
    [
        ({}, paging.PAGE_DEFAULT, paging.START),
        ({"limit": "1"}, 1, paging.START),
        ({"limit": "200"}, 200, paging.START),
        ({"after": str(CURSOR)}, paging.PAGE_DEFAULT, CURSOR),
    ],
)
def test_page_query(query, limit, after):
    """The query of a list is read from text."""
    read = payloads.PageQuery.model_validate(query)
    assert (read.limit, read.after) == (limit, after)


@pytest.mark.parametrize(("following", "text"), [(None, None), (CURSOR, str(CURSOR))])
def test_page(following, text):
    """A page is made from the domain's, items and cursor."""
    page = paging.Page([groups.Group(ID, "tea", AT, "owner")], following)
    answer = json.loads(payloads.Page[payloads.Group].model_validate(page).model_dump_json())
    group = {"id": str(ID), "name": "tea", "created_at": "2026-11-22T02:34:56Z", "role": "owner"}
    assert answer == {"items": [group], "next": text}


def test_member():
    """A member is made from the domain's."""
    answer = payloads.Member.model_validate(groups.Member(ID, "ann", "member", AT))
    assert answer.model_dump() == {"user_id": ID, "login": "ann", "role": "member", "joined_at": AT}


def test_very_many_faults_are_counted():
    """The answer does not outgrow the question."""
    with pytest.raises(ValidationError) as caught:
        payloads.NewGroup.model_validate({"name": "tea"} | {str(number): 0 for number in range(1_000)})
    fields = payloads.explain(caught.value).fields
    assert len(fields) == payloads.FAULTS_TOLD + 1
    assert fields[-1] == ("body", "has 900 more faults")
