"""The error tree.

An error has a stable lower-case ``code`` for programs, and a ``detail`` for people, by default the class's docstring.
``att.http.status_codes`` chooses the HTTP status.

AttError
├── Malformed
│   ├── NotJson
│   ├── WrongMediaType
│   └── BodyTimeout
├── Unauthenticated
│   ├── NotSignedIn
│   ├── AuthFailed
│   └── SessionEnded
├── Forbidden
│   ├── NotYou
│   ├── NotPermitted
│   ├── NotAMember
│   ├── NotAnOwner
│   ├── WrongPassword
│   ├── OriginNotAllowed
│   └── QuotaExceeded
├── NotFound
│   ├── NoSuchUser
│   ├── NoSuchRole
│   ├── NoSuchSession
│   ├── NoSuchGroup
│   ├── NoSuchMember
│   └── NoSuchEvent
├── Conflict
│   ├── LoginTaken
│   ├── RoleNameTaken
│   ├── GroupNameTaken
│   ├── RoleInUse
│   ├── BuiltInRole
│   ├── LastAdministrator
│   └── LastOwner
├── Invalid
│   ├── InvalidInput
│   ├── NotAnObject
│   └── KeyReused
├── PreconditionFailed
├── TooManyAttempts
│   └── QuotaExhausted
├── UpgradeRequired
├── Unavailable
│   ├── DatabaseUnavailable
│   │   └── ConnectionLost
│   ├── RedisUnavailable
│   ├── Busy
│   └── ShuttingDown
├── CannotStart
└── ProtocolError
    └── InvalidFrame
"""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import getdoc
from typing import ClassVar, NamedTuple

CLOSE_REASON_BYTES = 123  # RFC 6455, section 5.5: 125 for a control frame, less 2 for the code


def close_reason(text: str) -> bytes:
    """Return as much of a text as fits into a close frame: whole characters, at most 123 bytes."""
    return text.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore").encode()


class AttError(Exception):
    """The request failed. ``index`` is the position of the item at fault, if there were many.

    ``why`` is the cause for the operator's log and tools; clients do not see it.
    """

    code: ClassVar[str] = "error"
    index: int | None = None

    def __init_subclass__(cls, code: str | None = None) -> None:
        cls.code = code or cls.code

    def __init__(self, detail: str | None = None, *, why: str | None = None) -> None:
        self.detail = detail or " ".join((getdoc(type(self)) or "").split())
        self.why = why or self.detail
        super().__init__(self.detail)


class Malformed(AttError, code="malformed"):
    """The request cannot be read."""


class NotJson(Malformed, code="not json"):
    """The body is not JSON (RFC 8259) in UTF-8."""


class WrongMediaType(Malformed, code="unsupported media type"):
    """Send the body with the header 'Content-Type: application/json'."""


class BodyTimeout(Malformed, code="request timeout"):
    """The body did not arrive in time."""


class Unauthenticated(AttError, code="not signed in"):
    """The request is not signed in."""


class NotSignedIn(Unauthenticated, code="not signed in"):
    """Sign in at /login and send the token as 'Authorization: Bearer <token>' or the session cookie."""


class AuthFailed(Unauthenticated, code="auth failed"):
    """The login or the password is wrong."""


class SessionEnded(Unauthenticated, code="session ended"):
    """The session has ended. Sign in again at /login."""


class Forbidden(AttError, code="forbidden"):
    """You may not do this."""


class NotYou(Forbidden, code="not you"):
    """This belongs to another user."""


class NotPermitted(Forbidden, code="not permitted"):
    """Your role does not permit this."""


class NotAMember(Forbidden, code="not a member"):
    """Only members of the group may do this."""


class NotAnOwner(Forbidden, code="not an owner"):
    """Only owners of the group may do this."""


class WrongPassword(Forbidden, code="wrong password"):
    """The current password is wrong."""


class OriginNotAllowed(Forbidden, code="origin not allowed"):
    """With the session cookie, the Origin header must be this server's or one of --allow-origin.

    Programs send 'Authorization: Bearer <token>' instead of the cookie.
    """


class QuotaExceeded(Forbidden, code="quota exceeded"):
    """This would exceed a quota, and waiting does not help. ``quota`` is its name."""

    def __init__(self, quota: str, detail: str) -> None:
        self.quota = quota
        super().__init__(detail)


class NotFound(AttError, code="not found"):
    """There is nothing at this address."""


class NoSuchUser(NotFound, code="no such user"):
    """There is no user with this id."""


class NoSuchRole(NotFound, code="no such role"):
    """There is no role with this id or name."""


class NoSuchSession(NotFound, code="no such session"):
    """The user has no session with this id."""


class NoSuchGroup(NotFound, code="no such group"):
    """There is no group with this id or name."""


class NoSuchMember(NotFound, code="no such member"):
    """The user is not a member of this group."""


class NoSuchEvent(NotFound, code="no such event"):
    """The group's log has no message with this seq, or keeps it no longer."""


class Conflict(AttError, code="conflict"):
    """The request conflicts with the present state."""


class LoginTaken(Conflict, code="login taken"):
    """Another user has this login, or one that looks like it. Upper and lower case make no difference."""


class RoleNameTaken(Conflict, code="role name taken"):
    """Another role has this name, or one that looks like it. Upper and lower case make no difference."""


class GroupNameTaken(Conflict, code="group name taken"):
    """Another group has this name, or one that looks like it. Upper and lower case make no difference."""


class RoleInUse(Conflict, code="role in use"):
    """Some users have this role. Give them another one first."""


class BuiltInRole(Conflict, code="built-in role"):
    """The roles Admin and User can be neither renamed nor deleted."""


class LastAdministrator(Conflict, code="last administrator"):
    """At least one active user with a password must keep a role that permits everything ('*')."""


class LastOwner(Conflict, code="last owner"):
    """The last owner can neither leave nor become a plain member. Add another owner, or delete the group."""


class Invalid(AttError, code="invalid input"):
    """The request is invalid."""


class FieldError(NamedTuple):
    """A fault of one field of the input: ``field`` is its name, or a dotted path to it."""

    field: str
    message: str


class InvalidInput(Invalid, code="invalid input"):
    """Invalid fields of the input, all at once."""

    def __init__(self, fields: list[FieldError]) -> None:
        self.fields = fields
        super().__init__("; ".join(f"{field}: {message}" for field, message in fields))


class NotAnObject(Invalid, code="not an object"):
    """The body must be a JSON object: {...}."""


class KeyReused(Invalid, code="key reused"):
    """The idempotency key belongs to another message of the group. Use a new key for each message."""


class PreconditionFailed(AttError, code="precondition failed"):
    """The resource has changed since you read it: its ETag is not in If-Match. Read it again."""


class TooManyAttempts(AttError, code="too many attempts"):
    """Too many attempts. ``retry_after`` is in seconds."""

    def __init__(self, retry_after: int, detail: str = "Too many attempts.") -> None:
        self.retry_after = retry_after
        super().__init__(f"{detail} Try again in {retry_after} seconds.")


class QuotaExhausted(TooManyAttempts, code="quota exhausted"):
    """A quota is used up for now. ``quota`` is its name, ``retry_after`` is in seconds."""

    def __init__(self, quota: str, detail: str, retry_after: int) -> None:
        super().__init__(retry_after, detail)
        self.quota = quota


class UpgradeRequired(AttError, code="websocket required"):
    """This address is for WebSockets (RFC 6455, version 13), or for those who accept text/event-stream."""


class Unavailable(AttError, code="unavailable"):
    """The server cannot do this now. Try again in a moment."""

    retry_after: ClassVar[int] = 1  # seconds


class DatabaseUnavailable(Unavailable, code="database unavailable"):
    """The database cannot be reached. Try again in a moment."""


class ConnectionLost(DatabaseUnavailable):
    """The connection to the database was lost. A change may have been made: check before you repeat it."""


class RedisUnavailable(Unavailable, code="redis unavailable"):
    """Redis, which stores the sessions, cannot be reached. Try again in a moment."""


class Busy(Unavailable, code="busy"):
    """The server is overloaded. Try again in a moment."""


class ShuttingDown(Unavailable, code="shutting down"):
    """The server is stopping. Try again in a moment."""


class CannotStart(AttError, code="cannot start"):
    """The server cannot start. The detail is one line that says why and what to do."""


class ProtocolError(AttError, code="protocol error"):
    """An invalid or unexpected frame of att.v1. It closes the socket; the detail is the close reason."""

    @property
    def reason(self) -> bytes:
        """Return as much of the detail as fits into a close frame."""
        return close_reason(self.detail)


class InvalidFrame(ProtocolError, code="invalid input"):
    """An invalid frame of att.v1, which an error with its ``id`` answers. The socket stays open."""

    def __init__(self, id: str | int | None, detail: str) -> None:  # noqa: A002 - the frame calls it so
        self.id = id
        super().__init__(detail)


@contextmanager
def at_index(index: int | None) -> Iterator[None]:
    """Add the position of an item to an error that is raised inside."""
    try:
        yield
    except AttError as error:
        error.index = index
        raise


@contextmanager
def with_detail(detail: str) -> Iterator[None]:
    """Replace the detail of an ``Unavailable`` that is raised inside."""
    try:
        yield
    except Unavailable as error:
        raise type(error)(detail, why=error.why) from error
