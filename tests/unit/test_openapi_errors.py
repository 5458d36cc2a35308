"""Errors that follow from a row of the route table."""

import pytest

from att import errors
from att.api import schemas
from att.api.openapi.errors import error_responses
from att.api.route import Route
from att.core.permissions import Permission, Standing, Who, check

ALWAYS = {
    422: ["invalid input"],
    500: ["internal error"],
    503: ["busy", "database unavailable", "redis unavailable", "shutting down"],
}
GUARDED = {
    400: ["malformed"],
    401: ["not signed in"],
    408: ["request timeout"],
    413: ["body too large"],
    429: ["quota exhausted"],
    **ALWAYS,
}


async def handler(_request):
    raise NotImplementedError


def codes(method, path, who, **shapes):
    """Return the error codes by status."""
    route = Route(f"{method} {path}", handler, who, Permission.USERS_READ, responses={200: None}, **shapes)
    return {status: [error.code for error in found] for status, found in error_responses(route).items()}


def test_open_to_anyone():
    """A route for anyone that reads nothing has only the errors of every route; its query may be wrong."""
    assert codes("GET", "/x", Who.ANYONE) == ALWAYS


def test_signed_in():
    """The guard requires a session, and always reads the body."""
    assert codes("GET", "/x", Who.SIGNED_IN) == GUARDED


def test_unsafe():
    """A method that changes something must not come from another site's page."""
    assert codes("DELETE", "/x", Who.SIGNED_IN) == GUARDED | {403: ["origin not allowed"]}


def test_upgrade():
    """A WebSocket must not come from another site's page."""
    route = Route("GET /x", handler, Who.SIGNED_IN, responses={101: None}, upgrades=True)
    assert [error.code for error in error_responses(route)[403]] == ["origin not allowed"]


def test_body():
    """A body can have the wrong type, be no JSON, or have the wrong shape."""
    found = codes("POST", "/x", Who.ANYONE, body=schemas.NewAccountIn)
    assert found == ALWAYS | {
        400: ["malformed", "not json"],
        408: ["request timeout"],
        413: ["body too large"],
        415: ["unsupported media type"],
    }


def test_conditional():
    """The precondition of a change of something with a version can fail."""
    assert codes("PUT", "/x", Who.ANYONE, conditional=True) == ALWAYS | {412: ["precondition failed"]}


def test_path():
    """Each parameter of the path can name nothing."""
    found = codes("GET", "/{group}/{user_id}/{role_id}/{session_id}", Who.SIGNED_IN)
    assert found[404] == ["no such group", "no such role", "no such session", "no such user"]


def test_own_errors():
    """The route's own errors are added, in order and once."""
    own = (errors.LoginTaken, errors.LastAdministrator, errors.WrongPassword, errors.NoSuchUser)
    found = codes("PATCH", "/{user_id}", Who.SIGNED_IN, errors=own)
    assert (found[403], found[404], found[409]) == (
        ["origin not allowed", "wrong password"],
        ["no such user"],
        ["last administrator", "login taken"],
    )
    assert list(found) == sorted(found)


STANDINGS = [
    Standing(role, join, post)
    for role in (None, "member", "owner")
    for join in ("invite", "open")
    for post in ("members", "owners")
]


@pytest.mark.parametrize("who", Who)
def test_who(who):
    """The rules raise exactly the documented errors."""
    raised = set()
    for standing in STANDINGS:
        for target in ("me", "another"):
            try:
                check(who, actor="me", target=target, standing=standing)
            except errors.Forbidden as error:
                raised.add(error.code)
    documented = set(codes("GET", "/x", who).get(403, ()))
    assert documented == raised


def test_detail():
    """Each error has its default detail."""
    [error] = error_responses(Route("GET /x", handler, Who.ANYONE, responses={}, errors=(errors.LoginTaken,)))[409]
    assert error == (409, "login taken", errors.LoginTaken().detail)
