"""Explanations of invalid input."""

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from att.api import query_schemas, schemas
from att.errors import InvalidInput
from att.http.validation import FAULTS_SHOWN, explain

ID = "0f2a7c1e-5b3d-4c8f-9a6e-1d2b3c4d5e6f"
NO_STRING = "must be a valid string"
NO_NUMBER = "must be a whole number of at most 9 digits, without a sign"
SECRET = "hunter2"


def faults(shape, value):
    """Return the faults of a value as fields and messages."""
    with pytest.raises(ValidationError) as caught:
        shape.model_validate(value)
    return dict(explain(caught.value).fields)


@pytest.mark.parametrize(
    ("shape", "value", "expected"),
    [
        (schemas.NewAccountIn, {}, {"login": "is missing", "password": "is missing"}),
        (
            schemas.NewAccountIn,
            {"login": " ann", "password": "12345", "admin": True, "extra": 1},
            {
                "login": "must not begin or end with a space",
                "password": "must have at least 6 characters",
                "admin": "is not known",
                "extra": "is not known",
            },
        ),
        (schemas.NewAccountIn, {"login": 1, "password": None}, {"login": NO_STRING, "password": NO_STRING}),
        (
            schemas.CredentialsIn,
            {"password": "a" * 1025, "Login": "ann"},
            {"login": "is missing", "password": "must have at most 1024 bytes", "Login": "is not known"},
        ),
        (schemas.NewGroupIn, {"name": "a/b"}, {"name": "must not contain '/', or be '.' or '..'"}),
        (schemas.NewGroupIn, {"name": ID}, {"name": "must not be a UUID"}),
        (schemas.NewGroupIn, {"name": b"tea"}, {"name": NO_STRING}),
        (
            schemas.NewGroupIn,
            {"name": ["tea"], "join": "closed", "post": None, "retention": 1_000_001},
            {
                "name": NO_STRING,
                "join": "must be 'invite' or 'open'",
                "post": "must be 'members' or 'owners'",
                "retention": "must be less than or equal to 1000000",
            },
        ),
        (schemas.GroupChangeIn, {"name": None, "join": 1, "role": "owner"}, {"name": ..., "join": ..., "role": ...}),
        (schemas.MemberChangeIn, {"role": "admin"}, {"role": "must be 'owner' or 'member'"}),
        (schemas.MemberChangeIn, {"role": None}, {"role": ...}),
        (
            schemas.NewMembersIn,
            {"user_ids": [ID, "x", 5, ID.replace("-", "")]},
            {f"user_ids.{index}": "must be a UUID" for index in (1, 2, 3)},
        ),
        (schemas.NewMembersIn, {"user_ids": []}, {"user_ids": ...}),
        (schemas.NewMembersIn, {"user_ids": [ID] * 1001}, {"user_ids": ...}),
        (schemas.NewMembersIn, {"user_ids": ID}, {"user_ids": ...}),
        (query_schemas.PageQuery, {"limit": "many", "offset": "1"}, {"limit": NO_NUMBER, "offset": ...}),
    ],
)
def test_every_fault(shape, value, expected):
    """All faults come at once, each with the name of its field, unknown ones included."""
    found = faults(shape, value)
    assert found.keys() == expected.keys()
    assert all(found[field] == message for field, message in expected.items() if message is not ...)


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", [], [{"name": "tea"}]])
@pytest.mark.parametrize(
    "shape", [schemas.NewAccountIn, schemas.CredentialsIn, schemas.NewGroupIn, schemas.GroupChangeIn]
)
def test_not_an_object(shape, value):
    """A value that is no object is one fault, of the body."""
    assert faults(shape, value) == {"body": "must be a JSON object"}


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        (schemas.NewAccountIn, {"login": f" {SECRET}", "password": SECRET[:5]}),
        (schemas.NewAccountIn, {"login": f"{SECRET}\0", "password": SECRET * 200}),
        (schemas.NewAccountIn, {"login": [SECRET], "password": {SECRET: SECRET}}),
        (schemas.NewAccountIn, SECRET),
        (schemas.NewGroupIn, {"name": f"{SECRET}/", "extra": SECRET, "join": SECRET}),
        (schemas.NewMembersIn, {"user_ids": [SECRET]}),
        (query_schemas.PageQuery, {"limit": SECRET, "after": SECRET * 1000}),
    ],
)
def test_input_is_not_repeated(shape, value):
    """Input is not repeated in the response, nor in logs through it."""
    with pytest.raises(ValidationError) as caught:
        shape.model_validate(value)
    invalid = explain(caught.value)
    assert isinstance(invalid, InvalidInput)
    assert SECRET[:5] not in f"{invalid} {invalid.detail} {invalid.fields}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
)


@given(JSON | st.fixed_dictionaries({"login": JSON, "password": JSON}))
def test_any_json_is_read_or_explained(value):
    """Every JSON value is valid, or has at least one fault with a field and a message."""
    explained = None
    try:
        schemas.NewAccountIn.model_validate(value)
    except ValidationError as error:
        explained = explain(error).fields
    assert explained is None or all(field and message for field, message in explained)
    assert explained != []


def test_very_many_faults_are_cut():
    """The response is not larger than the request."""
    with pytest.raises(ValidationError) as caught:
        schemas.NewGroupIn.model_validate({"name": "tea"} | {str(number): 0 for number in range(1_000)})
    fields = explain(caught.value).fields
    assert len(fields) == FAULTS_SHOWN + 1
    assert fields[-1] == ("body", "has more faults")
