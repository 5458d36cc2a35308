"""Rules for logins, names and passwords, and for the equality of names."""

import re
import unicodedata
from uuid import UUID

from msgspec import ValidationError, convert

NAME_LENGTH = 64
PASSWORD_CHARACTERS = 6
PASSWORD_BYTES = 1024
_UUID_LENGTH = 36  # characters
RAW_LENGTH = 4096  # characters; the time to normalise a text grows with its square

# The rules of ``check_name`` as patterns of ECMA-262 for clients: no controls, no line breaks, no space at the ends.
# No pattern can say that the length is counted in normal form.
_INNER = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
_OUTER = r"[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_NAME = rf"{_OUTER}(?:{_INNER}{{0,{NAME_LENGTH - 2}}}{_OUTER})?"
_UUID = r"(?:urn:)?(?:uuid:)?\{?[0-9A-Fa-f]{8}-?(?:[0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}\}?"
KEY_PATTERN = r"^[!-~](?:[ -~]{0,198}[!-~])?$"  # of an idempotency key; a header can carry it as well as JSON
NAME_PATTERN = f"^{_NAME}$"
PERSON_NAME_PATTERN = f"^(?:{_NAME})?$"
PART_PATTERN = f"^{_INNER}{{1,{NAME_LENGTH}}}$"
GROUP_NAME_PATTERN = rf"^(?!\.{{1,2}}$|{_UUID}$|[^/]*/){_NAME}$"

_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, lone surrogates, line and paragraph separators


def normalise(text: str) -> str:
    """Return the text in normal form (NFC), in which equal texts are equal."""
    return unicodedata.normalize("NFC", text)


def fold(name: str) -> str:
    """Return the key to compare names by: Unicode's canonical caseless match (The Unicode Standard, D145).

    The database cannot do it: ``lower()`` with a C locale folds ASCII only.
    """
    decomposed = unicodedata.normalize("NFD", name)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", decomposed.casefold()))


def check_name(text: str) -> str:
    """Return the name in normal form. Raises ValueError, with a message for people, if it is not allowed."""
    name = normalise(text[:RAW_LENGTH])
    if not 1 <= len(name) <= NAME_LENGTH or len(text) > RAW_LENGTH:
        raise ValueError(f"must have 1 to {NAME_LENGTH} characters")
    if name != name.strip():
        raise ValueError("must not begin or end with a space")
    check_printable(name)
    return name


def check_printable(text: str) -> None:
    """Raise ValueError if a character is invisible, or the database does not accept it."""
    if any(unicodedata.category(character) in _UNPRINTABLE for character in text):
        raise ValueError("must not contain control characters")


def check_person_name(text: str) -> str:
    """Return a first or last name in normal form: it may be empty. Raises ValueError."""
    return check_name(text) if text else ""


def check_group_name(text: str) -> str:
    """Return a group's name in normal form: usable in a path, and no id. Raises ValueError."""
    name = check_name(text)
    if "/" in name or name in (".", ".."):
        raise ValueError("must not contain '/', or be '.' or '..'")
    if _looks_like_uuid(name):
        raise ValueError("must not be a UUID")
    return name


def check_password(text: str) -> str:
    """Return a new password in normal form (RFC 8265). Raises ValueError, without the password in the message."""
    password = check_password_size(text)
    if len(password) < PASSWORD_CHARACTERS:
        raise ValueError(f"must have at least {PASSWORD_CHARACTERS} characters")
    return password


def check_password_size(text: str) -> str:
    """Return a typed password in normal form. Raises ValueError if it is too long to hash."""
    password = normalise(text[:RAW_LENGTH])
    if any(unicodedata.category(character) == "Cs" for character in password):
        raise ValueError("must be Unicode text")
    if len(password.encode()) > PASSWORD_BYTES or len(text) > RAW_LENGTH:
        raise ValueError(f"must have at most {PASSWORD_BYTES} bytes")
    return password


def check_key(text: str) -> str:
    """Return an idempotency key. Raises ValueError if it is invalid."""
    if not re.fullmatch(KEY_PATTERN, text):
        raise ValueError("must have 1 to 200 printable ASCII characters, and no space at the ends")
    return text


def parse_uuid(text: str) -> UUID | None:
    """Return the UUID written as in RFC 9562 (8-4-4-4-12 hexadecimal digits, either case), or None."""
    if len(text) != _UUID_LENGTH:
        return None
    try:
        return convert(text, UUID)  # a resume may have 10,000 of them, and Python's own parser is ten times as slow
    except (ValidationError, UnicodeEncodeError):
        return None


def _looks_like_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
