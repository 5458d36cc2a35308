"""Describe errors of the operating system and the network."""

import os
import re
import socket
import ssl


def describe_error(error: BaseException) -> str:
    """Return the reason of an error, in the system's words if it is the system's: "connection refused"."""
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    words = filter(None, map(_of_system, reversed(causes)))  # the first cause is the most precise
    return next(words, " ".join(str(error).split()).rstrip(".") or "no answer")


def _of_system(error: BaseException) -> str | None:
    match error:
        case TimeoutError():
            return "timed out"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message} (SSL_CERT_FILE may name others to trust)"
        case ssl.SSLError() if reason := getattr(error, "reason", None):
            return f"no TLS can be agreed on: {reason.lower().replace('_', ' ')}"
        case socket.gaierror():
            return (error.strerror or "the host is unknown").lower()
    number = (isinstance(error, OSError) and error.errno) or _number_in(str(error))
    return os.strerror(number).lower() if number else None


def _number_in(text: str) -> int:
    """Return the errno in the text of an error of asyncio, which may combine several, or of the library redis."""
    found = re.search(r"\[Errno ([0-9]{1,3})\]|^Error ([0-9]{1,3}) ", text)
    return int(found[1] or found[2]) if found else 0
