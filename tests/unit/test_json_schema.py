"""JSON Schemas of the documentation."""

import re

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import TypeAdapter

from att.api import schemas
from att.api.openapi.json_schema import Schemas, each_of, markdown
from att.api.route import Route
from att.api.schemas import ItemsOut
from att.core import fields, names
from att.core.permissions import Who
from att.http.schemas import PageOut


async def handler(_request):
    raise NotImplementedError


def schemas_of(*answers):
    return Schemas([Route("POST /x", handler, Who.ANYONE, responses=dict(enumerate(answers)))])


def test_names():
    """A list of shapes is named after its shape."""
    found = schemas_of(PageOut[schemas.UserOut], ItemsOut[schemas.UserOut])
    assert set(found.definitions) == {"User", "UserItems", "UserPage"}


def test_descriptions():
    """Descriptions are Markdown, and schemas have no title."""
    found = schemas_of(schemas.UserOut).definitions["User"]
    assert found["description"] == "A user; `role` is its name."
    assert "title" not in found
    assert all("title" not in member for member in found["properties"].values())
    assert markdown("One\n  ``two``\n") == "One `two`"


def test_each_of():
    assert each_of(None) == ()
    assert each_of(schemas.UserOut) == (schemas.UserOut,)
    assert each_of((schemas.UserOut, schemas.RoleOut)) == (schemas.UserOut, schemas.RoleOut)


@pytest.mark.parametrize(
    ("check", "pattern"),
    [
        (names.check_name, names.NAME_PATTERN),
        (names.check_person_name, names.PERSON_NAME_PATTERN),
        (names.check_group_name, names.GROUP_NAME_PATTERN),
        (TypeAdapter(fields.PartOfName).validate_python, names.PART_PATTERN),
        (TypeAdapter(fields.RowId).validate_python, TypeAdapter(fields.RowId).json_schema()["pattern"]),
    ],
)
@settings(deadline=None)
@given(
    text=st.text(max_size=70)
    | st.text(" \t\x00\x1c\x85\xa0\u2028\u3000a./", max_size=4)
    | st.text(min_size=names.NAME_LENGTH - 1, max_size=names.NAME_LENGTH + 1)
    | st.uuids().map(str)
    | st.lists(st.uuids().map(str), max_size=3).map("/".join)
    | st.uuids().map(lambda value: f"{{{value.hex}}}")
    | st.uuids().map(lambda value: value.urn)
)
def test_patterns(check, pattern, text):
    """The documented patterns match exactly the names that the server accepts, in normal form."""
    text = names.normalise(text)
    try:
        is_taken = check(text) == text
    except ValueError:
        is_taken = False
    assert bool(re.search(pattern.replace("$", r"\Z"), text)) == is_taken
