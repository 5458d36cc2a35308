"""Pages by key."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from att.paging import PAGE_DEFAULT, PAGE_LIMIT, START, Cursor, Window, cut, parse_cursor

ID = UUID("0f2a7c1e-5b3d-4c8f-9a6e-1d2b3c4d5e6f")
AT = datetime(2026, 11, 22, 2, 34, 56, 789000, tzinfo=UTC)
# Offsets in whole seconds: Python itself does not read back one of less than a second. Inner years: so that each time
# can be told in UTC as well.
ZONES = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
TIMES = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=ZONES)  # noqa: DTZ001 # the zones are drawn
CURSORS = st.builds(Cursor, TIMES, st.uuids())


def encoded(text):
    """A text as cursors are written."""
    return urlsafe_b64encode(text.encode(errors="surrogateescape")).decode().rstrip("=")


@given(CURSORS)
@example(START)
@example(Cursor(datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1)))
@example(Cursor(AT.replace(microsecond=0), ID))
def test_round_trip(cursor):
    """A cursor is read as what was written, and is plain in a URL."""
    text = str(cursor)
    assert parse_cursor(text) == cursor
    assert text.replace("-", "").replace("_", "").isalnum()
    assert text.isascii()


BROKEN = {
    "nothing": "",
    "a word": "tea",
    "a number": "100",
    "another alphabet": "\u00e9" + str(Cursor(AT, ID)),
    "a lone surrogate": "\ud800" + str(Cursor(AT, ID)),
    "not base64": "!" * 20,
    "not UTF-8": encoded("\udcff"),
    "no id": encoded(AT.isoformat()),
    "no time": encoded(f" {ID}"),
    "no separator": encoded(f"{AT.isoformat()}{ID}"),
    "order": encoded(f"{ID} {AT.isoformat()}"),
    "a naive time": encoded(f"{AT.replace(tzinfo=None).isoformat()} {ID}"),
    "a date": encoded(f"2026-11-22 {ID}"),
    "no such day": encoded(f"2026-02-30T00:00:00+00:00 {ID}"),
    "another form of the time": encoded(f"{AT.isoformat().replace('+00:00', 'Z')} {ID}"),
    "another form of the id": encoded(f"{AT.isoformat()} {ID.hex}"),
    "an id in capitals": encoded(f"{AT.isoformat()} {str(ID).upper()}"),
    "something more": encoded(f"{AT.isoformat()} {ID} "),
    "padding": str(Cursor(AT, ID)) + "=",
    "a space": str(Cursor(AT, ID)) + " ",
    "a stray character": str(Cursor(AT, ID)) + "!",
    "the other base64": encoded(f"{AT.isoformat()} {ID}") + "+/",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_foreign_cursor(text):
    """What str(cursor) did not write is no cursor, and the message says where to get one."""
    with pytest.raises(ValueError, match=r"^is not a cursor of this list; take it from 'next'"):
        parse_cursor(text)


@pytest.mark.parametrize("length", range(len(str(Cursor(AT, ID)))))
def test_truncated_cursor(length):
    """A cursor that was cut short is none."""
    with pytest.raises(ValueError, match="is not a cursor"):
        parse_cursor(str(Cursor(AT, ID))[:length])


@given(
    st.one_of(
        st.text(), st.text("ABCDEFGHIJabcdefghij0123456789-_="), st.binary().map(urlsafe_b64encode).map(bytes.decode)
    )
)
def test_no_text_is_two_cursors(text):
    """Every text is either the one text of a cursor or a ValueError."""
    try:
        cursor = parse_cursor(text)
    except ValueError:
        return
    assert str(cursor) == text


def test_start_is_before_everything():
    """The first page begins before any row."""
    assert Cursor(AT, ID) > START
    assert Cursor(datetime.min.replace(tzinfo=UTC), UUID(int=0)) >= START
    assert Window() == Window(limit=PAGE_DEFAULT, after=START)
    assert 1 <= PAGE_DEFAULT <= PAGE_LIMIT


def key(number):
    """The cursor of an item that is a number."""
    return Cursor(AT, UUID(int=number))


@pytest.mark.parametrize(
    ("found", "items", "following"),
    [
        ([], [], None),
        ([1], [1], None),
        ([1, 2], [1, 2], None),
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3, 4], [1, 2, 3], key(3)),
    ],
)
def test_cut(found, items, following):
    """At most ``limit`` items are shown; there is a next page, from the last one shown, if more were found."""
    page = cut(found, Window(limit=3), key)
    assert page.items == items
    assert page.next == following


@given(st.integers(0, 30), st.integers(1, 10))
def test_pages_are_the_list(count, limit):
    """Page after page shows every item once and in order, and only the last page has no next."""
    rows = list(range(1, count + 1))
    seen, after, pages = [], key(0), 0
    while after is not None:
        found = [row for row in rows if key(row) > after][: limit + 1]
        page = cut(found, Window(limit, after), key)
        seen, after, pages = seen + list(page.items), page.next, pages + 1
    assert seen == rows
    assert pages == max(1, -(-count // limit))


@pytest.mark.parametrize("offset", ["+16:00", "-00:01", "+23:59"])
def test_only_utc_is_ours(offset):
    """PostgreSQL takes offsets of less than 16 hours, and str(cursor) writes none but UTC."""
    text = urlsafe_b64encode(f"2026-11-22T02:36:01{offset} {UUID(int=1)}".encode()).decode().rstrip("=")
    with pytest.raises(ValueError, match="is not a cursor"):
        parse_cursor(text)
