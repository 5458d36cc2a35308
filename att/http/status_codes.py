"""HTTP statuses of errors, and their phrases."""

from http import HTTPStatus

from att import errors

_STATUS: dict[type[errors.AttError], int] = {
    errors.Malformed: 400,
    errors.BodyTimeout: 408,
    errors.WrongMediaType: 415,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    errors.Invalid: 422,
    errors.TooManyAttempts: 429,
    errors.UpgradeRequired: 426,
    errors.Unavailable: 503,
}
# Phrases of RFC 9110; Python before 3.13 has older ones.
_PHRASES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}


def status_of(kind: type[errors.AttError]) -> int:
    """Return the HTTP status of errors of this class."""
    return next((_STATUS[base] for base in kind.__mro__ if base in _STATUS), 500)


def phrase_of(status: int) -> str:
    """Return the phrase of a status."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase
