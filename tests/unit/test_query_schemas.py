"""The shapes of queries."""

import pytest
from pydantic import ValidationError

from att.core.pagination import CURSOR_LENGTH, PAGE_DEFAULT
from att.http.schemas import PageQuery


@pytest.mark.parametrize(
    ("query", "limit", "after"),
    [
        ({}, PAGE_DEFAULT, None),
        ({"limit": "1"}, 1, None),
        ({"limit": "200"}, 200, None),
        ({"limit": "007"}, 7, None),
        ({"after": "x" * CURSOR_LENGTH}, PAGE_DEFAULT, "x" * CURSOR_LENGTH),
    ],
)
def test_page_query(query, limit, after):
    """The query of a list is read from text."""
    read = PageQuery.model_validate(query)
    assert (read.limit, read.after) == (limit, after)


@pytest.mark.parametrize(
    "query",
    [
        *(
            {"limit": limit}
            for limit in ("0", "201", "-1", "+1", " 1", "1 ", "1_0", "1.0", "1e1", "", "x", "٣", "9" * 5000)
        ),
        {"limit": ["1", "2"]},
        {"after": "x" * (CURSOR_LENGTH + 1)},
        {"after": ["x", "y"]},
        {"offset": "1"},
    ],
    ids=lambda query: str(query)[:30],
)
def test_no_page_query(query):
    """Numbers are digits within the limits, each parameter is given once, and unknown ones are refused."""
    with pytest.raises(ValidationError) as caught:
        PageQuery.model_validate(query)
    assert [fault["loc"] for fault in caught.value.errors()] == [tuple(query)]
