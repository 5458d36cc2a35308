"""Keyset pagination."""

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import example, given, strategies as st

from att.core.pagination import PAGE_DEFAULT, PAGE_LIMIT, Order, Page, Window

ID = UUID("0f2a7c1e-5b3d-4c8f-9a6e-1d2b3c4d5e6f")
AT = datetime(2026, 11, 22, 2, 34, 56, 789000, tzinfo=UTC)
TEA = Order("tea", (datetime, UUID))
NAMES = Order("names", (str, int))
# Offsets in whole seconds: Python itself does not read back one of less than a second. Inner years, so that each time
# has a UTC form, too.
ZONES = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
TIMES = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=ZONES)  # noqa: DTZ001 # the zones are drawn
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def encoded(value):
    """Return a value in the encoding of cursors."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return urlsafe_b64encode(text.encode(errors="surrogateescape")).decode().rstrip("=")


@given(st.tuples(TIMES, st.uuids()))
@example((datetime(1, 1, 1, tzinfo=UTC), UUID(int=0)))
@example((datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1)))
def test_round_trip(key):
    """A cursor is read as it was written, and needs no escapes in a URL."""
    text = TEA.cursor(key)
    assert TEA.parse(text) == key
    assert text.replace("-", "").replace("_", "").isalnum()
    assert text.isascii()


@given(st.tuples(TEXTS.filter(lambda text: len(text) < 80), st.integers(-(2**63) + 1, 2**63 - 1)))
def test_round_trip_of_other_kinds(key):
    """Cursors with names and numbers are read as they were written."""
    assert NAMES.parse(NAMES.cursor(key)) == key


BROKEN = {
    "nothing": "",
    "a word": "tea",
    "a number": "100",
    "another alphabet": "\u00e9" + TEA.cursor((AT, ID)),
    "a lone surrogate": "\ud800" + TEA.cursor((AT, ID)),
    "not base64": "!" * 20,
    "not UTF-8": encoded("\udcff"),
    "not JSON": encoded("tea"),
    "no list": encoded({"tea": 1}),
    "a number in JSON": encoded(5),
    "an empty list": encoded([]),
    "another order": NAMES.cursor(("a", 1)),
    "another name": encoded(["coffee", AT.isoformat(), str(ID)]),
    "no id": encoded(["tea", AT.isoformat()]),
    "one too many": encoded(["tea", AT.isoformat(), str(ID), 1]),
    "the wrong way round": encoded(["tea", str(ID), AT.isoformat()]),
    "a time that is a number": encoded(["tea", 5, str(ID)]),
    "an id that is a number": encoded(["tea", AT.isoformat(), 5]),
    "a naive time": encoded(["tea", AT.replace(tzinfo=None).isoformat(), str(ID)]),
    "a time in another zone": encoded(["tea", "2026-11-22T02:34:56+01:00", str(ID)]),
    "no such day": encoded(["tea", "2026-02-30T00:00:00+00:00", str(ID)]),
    "another form of the time": encoded(["tea", AT.isoformat().replace("+00:00", "Z"), str(ID)]),
    "another form of the id": encoded(["tea", AT.isoformat(), ID.hex]),
    "padding": TEA.cursor((AT, ID)) + "=",
    "a stray character": TEA.cursor((AT, ID)) + "!",
    "very long": TEA.cursor((AT, ID)) * 1_000,
    "very deep": encoded("[" * 100_000),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken(text):
    """An invalid cursor is recognised, and raises no other error."""
    with pytest.raises(ValueError, match="is not a cursor of this list") as caught:
        TEA.parse(text)
    assert caught.type is ValueError


@pytest.mark.parametrize("key", [["a\0", 1], ["\ud800", 1], [1, 1], ["a", "1"], ["a", 1.5], ["a", True], ["a", 2**63]])
def test_keys_that_no_row_has(key):
    """A forged cursor cannot bring values to the database that it cannot store."""
    with pytest.raises(ValueError, match="is not a cursor of this list"):
        NAMES.parse(encoded(["names", *key]))


@given(st.text())
def test_anything(text):
    """Any text is read or refused as a cursor."""
    with pytest.raises(ValueError, match="is not a cursor of this list"):
        TEA.parse(text)


def test_window():
    """A window begins at the start, with a default length below the maximum."""
    assert Window() == (PAGE_DEFAULT, None)
    assert PAGE_DEFAULT < PAGE_LIMIT


def test_map():
    """A page is converted item by item."""
    assert Page([1, 2], "next").map(str) == Page(["1", "2"], "next")
