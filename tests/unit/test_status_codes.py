"""Statuses of errors, and their phrases in every version of Python."""

from http import HTTPStatus

import pytest

from att import errors
from att.http.status_codes import phrase_of, status_of


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.NotJson, 400),
        (errors.AuthFailed, 401),
        (errors.NotPermitted, 403),
        (errors.NoSuchRole, 404),
        (errors.BodyTimeout, 408),
        (errors.LastAdministrator, 409),
        (errors.PreconditionFailed, 412),
        (errors.WrongMediaType, 415),
        (errors.InvalidInput, 422),
        (errors.UpgradeRequired, 426),
        (errors.TooManyAttempts, 429),
        (errors.ConnectionLost, 503),
        (errors.CannotStart, 500),  # never reaches HTTP
    ],
)
def test_status(kind, status):
    """An error has the status of the nearest base class that has one."""
    assert status_of(kind) == status


def test_phrase():
    """Phrases are those of RFC 9110, section 15."""
    assert {status: phrase_of(status) for status in (404, 413, 422)} == {
        404: "Not Found",
        413: "Content Too Large",
        422: "Unprocessable Content",
    }
    assert all(phrase_of(status) for status in HTTPStatus)
