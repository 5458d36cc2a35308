"""Errors of a route: its own, and those that follow from the rest of its row."""

from collections import defaultdict
from collections.abc import Iterator
from inspect import getdoc
from typing import NamedTuple

from att import errors
from att.api.route import PATH_PARAMETERS, Route
from att.core.permissions import Who
from att.http.bodies import BODY_LIMIT
from att.http.credentials import SAFE_METHODS
from att.http.status_codes import status_of

Kinds = tuple[type[errors.AttError], ...]

_NOT_IN_GROUP: Kinds = (errors.NotAMember, errors.NotAnOwner)
FORBIDDEN: dict[Who, Kinds] = {
    Who.ANYONE: (),
    Who.SIGNED_IN: (),
    Who.PERMITTED: (errors.NotPermitted,),
    Who.ONESELF: (errors.NotYou,),
    Who.FELLOW: (errors.NotYou,),
    Who.MEMBER: (errors.NotAMember,),
    Who.VISITOR: (errors.NotAMember,),
    Who.POSTER: _NOT_IN_GROUP,
    Who.OWNER: _NOT_IN_GROUP,
    Who.OWNER_OR_ONESELF: _NOT_IN_GROUP,
    Who.OWNER_OR_SENDER: _NOT_IN_GROUP,
    Who.OWNER_OR_JOINER: _NOT_IN_GROUP,
}


class ErrorResponse(NamedTuple):
    """An error response: the status, the stable code, and the default detail."""

    status: int
    code: str
    detail: str


_TOO_LARGE = ErrorResponse(413, "body too large", f"The body is larger than {BODY_LIMIT} bytes.")
_FAULT = ErrorResponse(500, "internal error", "This is a fault of the server.")


def error_responses(route: Route) -> dict[int, list[ErrorResponse]]:
    """Return all error responses of a route by status, in order."""
    found = {
        ErrorResponse(status_of(kind), kind.code, " ".join((getdoc(kind) or "").split())) for kind in _kinds(route)
    }
    found.add(_FAULT)
    if _awaits_body(route):
        found.add(_TOO_LARGE)
    by_status: defaultdict[int, list[ErrorResponse]] = defaultdict(list)
    for error in sorted(found):
        by_status[error.status].append(error)
    return dict(by_status)


def _kinds(route: Route) -> Iterator[type[errors.AttError]]:
    yield from route.errors
    yield from (errors.Busy, errors.DatabaseUnavailable, errors.RedisUnavailable, errors.ShuttingDown)
    yield from (PATH_PARAMETERS[name].not_found for name in route.parameters)
    yield from FORBIDDEN[route.who]
    if route.who is not Who.ANYONE:
        yield from (errors.NotSignedIn, errors.QuotaExhausted)
        if route.method not in SAFE_METHODS or route.upgrades:
            yield errors.OriginNotAllowed
    yield from _of_input(route)


def _of_input(route: Route) -> Iterator[type[errors.AttError]]:
    if _awaits_body(route):
        yield from (errors.Malformed, errors.BodyTimeout)
    if route.body is not None:
        yield from (errors.NotJson, errors.WrongMediaType)
    yield errors.InvalidInput  # at least for an unknown query parameter
    if route.conditional:
        yield errors.PreconditionFailed


def _awaits_body(route: Route) -> bool:
    """Return True if the server reads the body: the guard always does."""
    return route.who is not Who.ANYONE or route.body is not None
