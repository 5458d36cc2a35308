"""Everything that can be refused, and why.

An error carries a stable lower-case ``code`` that programs may compare, and a ``detail`` for people; the default
detail is the class's docstring. Nothing here knows HTTP: ``att.web`` chooses the status.

AttError
├── Malformed
│   ├── NotJson
│   ├── WrongMediaType
│   └── BodyTimeout
├── Unauthenticated
│   ├── NotSignedIn
│   └── AuthFailed
├── Forbidden
│   ├── NotYou
│   ├── NotAMember
│   ├── NotAnOwner
│   └── OriginNotAllowed
├── NotFound
│   ├── NoSuchUser
│   ├── NoSuchGroup
│   └── NoSuchMember
├── Conflict
│   ├── LoginTaken
│   ├── GroupNameTaken
│   └── LastOwner
├── Invalid
│   ├── InvalidInput
│   └── NotAnObject
├── UpgradeRequired
├── Unavailable
│   ├── DatabaseUnavailable
│   │   └── ConnectionLost
│   ├── Busy
│   └── ShuttingDown
└── CannotStart
"""

from inspect import getdoc
from typing import ClassVar, NamedTuple


class AttError(Exception):
    """The request cannot be carried out."""

    code: ClassVar[str] = "error"

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or " ".join((getdoc(type(self)) or "").split())
        super().__init__(self.detail)


class Malformed(AttError):
    """The request cannot be read."""

    code = "malformed"


class NotJson(Malformed):
    """The body is not JSON (RFC 8259) in UTF-8."""

    code = "not json"


class WrongMediaType(Malformed):
    """Send the body with the header 'Content-Type: application/json'."""

    code = "unsupported media type"


class BodyTimeout(Malformed):
    """The body did not arrive in time."""

    code = "request timeout"


class Unauthenticated(AttError):
    """It is not known who is asking."""

    code = "not signed in"


class NotSignedIn(Unauthenticated):
    """Sign in at /login and send the token as 'Authorization: Bearer <token>' or the session cookie."""

    code = "not signed in"


class AuthFailed(Unauthenticated):
    """The login or the password is wrong."""

    code = "auth failed"


class Forbidden(AttError):
    """You may not do this."""

    code = "forbidden"


class NotYou(Forbidden):
    """This belongs to somebody else."""

    code = "not you"


class NotAMember(Forbidden):
    """Only members of the group may do this."""

    code = "not a member"


class NotAnOwner(Forbidden):
    """Only owners of the group may do this."""

    code = "not an owner"


class OriginNotAllowed(Forbidden):
    """A request that is signed in by the cookie needs an Origin header that is this server's or in --allow-origin.

    Programs send 'Authorization: Bearer <token>' instead of the cookie.
    """

    code = "origin not allowed"


class NotFound(AttError):
    """There is nothing at this address."""

    code = "not found"


class NoSuchUser(NotFound):
    """There is no user with this id."""

    code = "no such user"


class NoSuchGroup(NotFound):
    """There is no group with this id or name."""

    code = "no such group"


class NoSuchMember(NotFound):
    """The user is not a member of this group."""

    code = "no such member"


class Conflict(AttError):
    """The request contradicts what is already there."""

    code = "conflict"


class LoginTaken(Conflict):
    """Somebody else has this login; logins are compared without regard to case."""

    code = "login taken"


class GroupNameTaken(Conflict):
    """Another group has this name; names are compared without regard to case."""

    code = "group name taken"


class LastOwner(Conflict):
    """The last owner cannot leave. Delete the group instead."""

    code = "last owner"


class Invalid(AttError):
    """The request can be read, but not accepted."""

    code = "invalid input"


class FieldError(NamedTuple):
    """What is wrong with one member of the input: ``field`` is its name, or a dotted path to it."""

    field: str
    message: str


class InvalidInput(Invalid):
    """Members of the input that cannot be accepted, all of them at once."""

    code = "invalid input"

    def __init__(self, fields: list[FieldError]) -> None:
        self.fields = fields
        super().__init__("; ".join(f"{field}: {message}" for field, message in fields))


class NotAnObject(Invalid):
    """The body must be a JSON object: {...}."""

    code = "not an object"


class UpgradeRequired(AttError):
    """This address speaks WebSocket (RFC 6455, version 13) only."""

    code = "websocket required"


class Unavailable(AttError):
    """The server cannot do this now. ``retry_after`` is in seconds."""

    code = "unavailable"
    retry_after: ClassVar[int] = 1


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached. Try again in a moment."""

    code = "database unavailable"


class ConnectionLost(DatabaseUnavailable):
    """The connection to the database was lost. Whether a change was made is not known: look before you repeat it."""


class Busy(Unavailable):
    """The server has more to do than it can take on. Try again in a moment."""

    code = "busy"


class ShuttingDown(Unavailable):
    """The server is stopping. Try again in a moment."""

    code = "shutting down"


class CannotStart(AttError):
    """The server cannot start. The detail is one line that says why and what to do."""

    code = "cannot start"
