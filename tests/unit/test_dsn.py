"""Data source names: validation and description."""

import pytest

from att.db.dsn import check_dsn, describe


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:secret@host:5432/db",
        "postgres://me@/db?host=/run/postgresql",
        "host=localhost dbname=db user=me password='s p'",
        "postgresql:///db",
        "postgresql://",
        "host=a,b port=1,2 dbname=db",
    ],
)
def test_good_dsns(dsn):
    assert check_dsn(dsn) == dsn


@pytest.mark.parametrize(
    "dsn",
    ["", "foo", "mysql://me@host/db", "postgresql+psycopg2://me@host/db", "http://host", "postgresql://me:se@cret@h/d"],
)
def test_bad_dsns(dsn):
    """Errors do not contain a possible password."""
    with pytest.raises(ValueError, match=r"write|must be percent-encoded") as caught:
        check_dsn(dsn)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "place"),
    [
        ("postgresql://me:secret@host:5432/db", "db at host:5432 as me"),
        ("postgres://me@/db?host=/run/postgresql", "db at /run/postgresql as me"),
        ("dbname=db", "db at the local socket"),
        ("postgresql://me@a,b/db", "db at a, b as me"),
        ("postgresql://me@a:1,b/db", "db at a:1, b as me"),
        ("postgresql://me@[::1]:1,[::2]/db", "db at [::1]:1, ::2 as me"),
        ("host=a,b,/run/postgresql port=5 dbname=db", "db at a:5, b:5, /run/postgresql"),
        ("host=h", "the default database at h"),
    ],
)
def test_describe(dsn, place):
    """The description has no password."""
    assert describe(dsn) == place
