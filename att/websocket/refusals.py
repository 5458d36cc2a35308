"""Close codes in place of the statuses that refuse a handshake: a page's script cannot see a status."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from att import errors
from att.protocol.frames import CloseCode

_CODES: Mapping[type[errors.AttError], CloseCode] = MappingProxyType(
    {
        errors.Unauthenticated: CloseCode.SESSION_ENDED,
        errors.Forbidden: CloseCode.FORBIDDEN,
        errors.NotFound: CloseCode.FORBIDDEN,
        errors.Malformed: CloseCode.PROTOCOL_ERROR,
        errors.Invalid: CloseCode.PROTOCOL_ERROR,
        errors.TooManyAttempts: CloseCode.OVERLOADED,
        errors.Unavailable: CloseCode.OVERLOADED,
    }
)


class Refusal(NamedTuple):
    """A close frame's code and reason."""

    code: CloseCode
    reason: bytes


def refusal_of(error: errors.AttError) -> Refusal | None:
    """Return how a handshake is refused that fails with this error; None if only by its status.

    A proxy tries another server in place of one that is stopping, which it knows by the status.
    """
    code = next((_CODES[base] for base in type(error).__mro__ if base in _CODES), None)
    if code is None or isinstance(error, errors.ShuttingDown):
        return None
    if isinstance(error, errors.TooManyAttempts | errors.Unavailable):
        return Refusal(code, f"{error.code}; retry in {error.retry_after} s".encode())
    if code is CloseCode.SESSION_ENDED:
        return Refusal(code, code.reason.encode())
    return Refusal(code, errors.close_reason(f"{error.code}: {error.detail}"))
