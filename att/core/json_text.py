"""JSON texts (RFC 8259) of clients, read at a cost that their size bounds.

To build objects of a text of 1 MiB may take half a second: a list costs two bytes there, and a hundred times as much
here. So a text is built only if it has few values; a larger one is checked without building anything.
"""

from collections.abc import Generator
from typing import Any

from msgspec import DecodeError, Raw
from msgspec.json import Decoder
from pydantic_core import from_json

from att.core.tasks import at_once

FEW = 10_000  # values that are built in some milliseconds
NESTING = (
    201  # arrays and objects in each other: the limit of the parser that builds objects, where the last may be empty
)
DIGITS = 4_300  # of a whole number: that parser's limit, and that of Python's int
_KINDS = bytes.maketrans(b"{}", b"[]")
_REST = bytes(set(range(256)) - set(b'[]{}",'))  # bytes that say nothing about the structure
_STEPS = 16_384  # brackets that are looked at: of 1 MiB every 64th, so that 32 levels may remain unseen
_LOOKS = 4_096  # of them at once
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_CHECKER = Decoder(Raw)


def parse(data: bytes) -> Any:
    """Build the value of a text. Raises ValueError, with the position of the fault."""
    return from_json(data, allow_inf_nan=False, cache_strings=False)


def is_object(data: bytes) -> bool:
    """Return True if a text is an object, False if it is another value. Raises ValueError if it is not JSON."""
    return at_once(checking(data))


def checking(data: bytes) -> Generator[None, None, bool]:
    """Do the work of ``is_object`` step by step, of which each takes some milliseconds for 1 MiB."""
    if _separators(data) < FEW:
        return isinstance(parse(data), dict)
    yield
    try:
        data.decode()
        _CHECKER.decode(data)
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    yield
    if (yield from _depth(data)) > NESTING:
        raise ValueError("it is nested too deeply")
    yield
    if _has_long_number(data):
        raise ValueError(f"a number has more than {DIGITS} digits")
    return data.lstrip(b" \t\r\n").startswith(b"{")


def has_more_values(data: bytes, most: int) -> bool:
    """Return True if a text has more than so many values. Of what is no JSON it tells nothing."""
    return _separators(data) >= most and _separators(_structure(data)) >= most


def _separators(data: bytes) -> int:
    """Count what begins another value, also inside of strings."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def _structure(data: bytes) -> bytes:
    """Return the brackets and commas outside of strings, where braces are brackets, too."""
    data = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_KINDS, _REST).replace(b'""', b"")
    return b"".join(data.split(b'"')[::2])


def _depth(data: bytes) -> Generator[None, None, int]:
    """Find how deeply arrays and objects are nested. Of very many brackets only some are looked at."""
    brackets = _structure(data).replace(b",", b"")
    step = len(brackets) // _STEPS + 1
    depth = deepest = 0
    for number, at in enumerate(range(0, len(brackets) - step + 1, step)):
        if number % _LOOKS == 0:
            yield
        depth += 2 * brackets.count(b"[", at, at + step) - step
        deepest = max(deepest, depth)
    return deepest


def _has_long_number(data: bytes) -> bool:
    """Return True if a whole number has too many digits: what follows a bracket, comma, colon or space outside."""
    zeros, run = data.translate(_ZEROS), b"0" * (DIGITS + 1)
    at = zeros.find(run)
    while at >= 0:
        if data[:at].removesuffix(b"-").endswith((b"[", b",", b":", b" ", b"\t", b"\r", b"\n")):
            return True
        at = zeros.find(run, at + len(run))
    return False
