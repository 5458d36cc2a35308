"""The error tree."""

import re

import pytest

from att import errors
from att.errors import (
    AttError,
    FieldError,
    InvalidFrame,
    InvalidInput,
    NoSuchUser,
    QuotaExceeded,
    QuotaExhausted,
    TooManyAttempts,
    at_index,
)

BRANCH = re.compile(r"^((?:│   |    )*(?:├── |└── )?)(\w+)$")

# What programs compare: to change one is to break them.
CODES = {
    "AttError": "error",
    "AuthFailed": "auth failed",
    "BuiltInRole": "built-in role",
    "BodyTimeout": "request timeout",
    "Busy": "busy",
    "CannotStart": "cannot start",
    "Conflict": "conflict",
    "ConnectionLost": "database unavailable",
    "DatabaseUnavailable": "database unavailable",
    "Forbidden": "forbidden",
    "GroupNameTaken": "group name taken",
    "Invalid": "invalid input",
    "InvalidFrame": "invalid input",
    "InvalidInput": "invalid input",
    "KeyReused": "key reused",
    "LastAdministrator": "last administrator",
    "LastOwner": "last owner",
    "LoginTaken": "login taken",
    "Malformed": "malformed",
    "NoSuchGroup": "no such group",
    "NoSuchMember": "no such member",
    "NoSuchEvent": "no such event",
    "NoSuchRole": "no such role",
    "NoSuchSession": "no such session",
    "NoSuchUser": "no such user",
    "NotAMember": "not a member",
    "NotAnObject": "not an object",
    "NotAnOwner": "not an owner",
    "NotFound": "not found",
    "NotJson": "not json",
    "NotPermitted": "not permitted",
    "NotSignedIn": "not signed in",
    "NotYou": "not you",
    "OriginNotAllowed": "origin not allowed",
    "QuotaExceeded": "quota exceeded",
    "QuotaExhausted": "quota exhausted",
    "PreconditionFailed": "precondition failed",
    "ProtocolError": "protocol error",
    "RoleInUse": "role in use",
    "RoleNameTaken": "role name taken",
    "SessionEnded": "session ended",
    "RedisUnavailable": "redis unavailable",
    "ShuttingDown": "shutting down",
    "TooManyAttempts": "too many attempts",
    "Unauthenticated": "not signed in",
    "Unavailable": "unavailable",
    "UpgradeRequired": "websocket required",
    "WrongMediaType": "unsupported media type",
    "WrongPassword": "wrong password",
}


WITH_DETAILS_OF_THEIR_OWN = (InvalidFrame, InvalidInput, TooManyAttempts, QuotaExceeded, QuotaExhausted)


def drawn(text):
    """Return the pairs of parent and child in a tree of box characters."""
    path, pairs = [], set()
    for line in text.splitlines():
        if (match := BRANCH.match(line)) and (match[1] or not path):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            pairs.add((path[depth - 1] if depth else None, match[2]))
    return pairs


def derived(kind, parent=None):
    """Return the pairs of parent and child of a class and its subclasses."""
    pairs = {(parent, kind.__name__)}
    return pairs.union(*(derived(child, kind.__name__) for child in kind.__subclasses__()))


def everyone(kind):
    """Return a class and all its subclasses."""
    return [kind, *(each for child in kind.__subclasses__() for each in everyone(child))]


TREE = everyone(AttError)


def test_drawing_is_the_tree():
    """The tree at the top of the module is that of the classes."""
    assert drawn(errors.__doc__) == derived(AttError)
    assert len(TREE) == len(CODES)


@pytest.mark.parametrize(
    "wrong",
    ["A\n├── B\n│   └── C", "A\n└── B\nC", "A\n├── B\n└── C\n    └── D", "A\n├── C\n└── B", ""],
)
def test_drawing_can_be_wrong(wrong):
    """A drawing with a class too many, too few or in another place is recognised."""
    assert drawn("Words.\n\nA\n├── B\n└── C\n") == {(None, "A"), ("A", "B"), ("A", "C")}
    is_same = drawn(wrong) == {(None, "A"), ("A", "B"), ("A", "C")}
    assert is_same == (wrong == "A\n├── C\n└── B")  # the order of siblings says nothing


@pytest.mark.parametrize("kind", TREE)
def test_code(kind):
    """Each class has its lower-case code for programs."""
    assert kind.code == CODES[kind.__name__]
    assert re.fullmatch(r"[a-z]+([ -][a-z]+)*", kind.code)


@pytest.mark.parametrize("kind", [kind for kind in TREE if kind not in WITH_DETAILS_OF_THEIR_OWN])
def test_detail(kind):
    """The detail is one line: the given text, or the class's docstring."""
    assert kind.__dict__["__doc__"]
    error = kind()
    assert error.detail == str(error) == " ".join(kind.__doc__.split())
    assert kind("It rains.").detail == str(kind("It rains.")) == "It rains."


def test_why():
    """The cause is kept for the operator, also when clients get another detail."""
    assert errors.Busy().why == errors.Busy().detail
    with pytest.raises(errors.Busy) as caught, errors.with_detail("Come back."):
        raise errors.Busy(why="the disk is slow")
    assert (caught.value.detail, str(caught.value), caught.value.why) == (
        "Come back.",
        "Come back.",
        "the disk is slow",
    )


def test_invalid_input():
    """The detail names every field and its fault."""
    error = InvalidInput([FieldError("login", "is missing"), FieldError("a.b", "is not known")])
    assert error.detail == str(error) == "login: is missing; a.b: is not known"
    assert error.fields == [("login", "is missing"), ("a.b", "is not known")]
    assert InvalidInput.__doc__


@pytest.mark.parametrize("kind", everyone(errors.Unavailable))
def test_retry_after(kind):
    """A temporary error says when to try again."""
    assert kind.retry_after >= 1


def test_too_many_attempts():
    """The detail says how long to wait."""
    error = TooManyAttempts(90)
    assert (error.retry_after, error.detail) == (90, "Too many attempts. Try again in 90 seconds.")


def test_quotas():
    """The error names the quota, and says how long to wait if that helps."""
    error = QuotaExceeded("members", "Too many.")
    assert (error.quota, error.detail, str(error)) == ("members", "Too many.", "Too many.")
    error = QuotaExhausted("requests", "Too many.", 9)
    assert (error.quota, error.retry_after) == ("requests", 9)
    assert error.detail == str(error) == error.why == "Too many. Try again in 9 seconds."


def test_at_index():
    """An error of one of many items has its index."""
    with pytest.raises(NoSuchUser) as caught, at_index(3):
        raise NoSuchUser
    assert caught.value.index == 3
    assert NoSuchUser().index is None
