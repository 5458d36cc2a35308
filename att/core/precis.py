"""Characters of new logins and names, by PRECIS: UsernameCaseMapped (RFC 8265) and Nickname (RFC 8266).

Logins and names from earlier releases may break these rules, so whatever finds one uses ``att.core.names`` alone.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from precis_i18n import get_profile
from precis_i18n.profile import Profile

from att.core import names
from att.core.names import fold, normalise
from att.errors import FieldError, InvalidInput

_USERNAME = get_profile("UsernameCaseMapped")
_NICKNAME = get_profile("Nickname")

_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
# Letters of Thai and Lao that people type, and that UsernameCaseMapped allows only as two characters each.
_COMPOUND = str.maketrans({letter: unicodedata.normalize("NFKC", letter) for letter in "\u0e33\u0eb3\u0edc\u0edd"})
# Symbols without ink, which Nickname allows: a Braille cell without dots, and an invisible head of a note.
_BLANK = frozenset("\u2800\U0001d159")

# Sequences of emoji (UTS 51) in a text that has for each character the letter of its kind: Symbol, Key of a keycap,
# Enclosing keycap, Modifier of the skin, Variation selector, zero-width Joiner, Tag, and the end of tags (X).
_EMOJI = re.compile("KVE|S(?:V|M|T+X)?(?:JS(?:V|M|T+X)?)*")
_KINDS = {
    **dict.fromkeys("0123456789#*", "K"),
    "\u20e3": "E",
    **dict.fromkeys("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff", "M"),
    **dict.fromkeys("\ufe0e\ufe0f", "V"),
    "\u200d": "J",
    **{chr(point): "T" for point in range(0xE0020, 0xE007F)},
    "\U000e007f": "X",
    **dict.fromkeys("\u203c\u2049\u2139\u3030", "S"),
    **{chr(point): "S" for point in range(0x1F000, 0x1FB00) if not 0x1F3FB <= point <= 0x1F3FF},  # also future ones
}


def check_login(text: str) -> str:
    """Return a new login in normal form. Raises ValueError, with a message for people, if it is not allowed.

    It consists of parts that UsernameCaseMapped allows, with spaces between them (RFC 8265, section 3.5). Symbols,
    punctuation and emoji are allowed as well: such logins were always possible. Characters of full and half width are
    mapped to ordinary ones. Case is kept, since ``fold`` compares without it.
    """
    login = map_width(names.check_name(text))
    for part in login.split(" "):
        if not all(map(_is_plain_in_login, part)):
            _check_visible(part)
            masked = ("*" if _is_sign(character) else character for character in _mask_emoji(part))
            _enforce(_USERNAME, "".join(masked).translate(_COMPOUND))
    return login


def check_name(text: str) -> str:
    """Return the new name of a role in normal form. Raises ValueError."""
    return _check_nickname(names.check_name(text))


def check_person_name(text: str) -> str:
    """Return a new first or last name in normal form: it may be empty. Raises ValueError."""
    return _check_nickname(names.check_person_name(text))


def check_group_name(text: str) -> str:
    """Return the new name of a group in normal form. Raises ValueError."""
    return _check_nickname(names.check_group_name(text))


def check_rename(check: Callable[[str], str], name: str) -> None:
    """Raise InvalidInput if a role or group may not get this name."""
    try:
        check(name)
    except ValueError as error:
        raise InvalidInput([FieldError("name", str(error))]) from error


def map_width(login: str) -> str:
    """Return the login with characters of full and half width replaced by ordinary ones."""
    return login if login.isascii() else normalise(_USERNAME.width_mapping_rule(login))


def login_keys(login: str) -> list[str]:
    """Return the keys that the user with this login may have, the likeliest first.

    The login of a user from an earlier release may have characters of full width.
    """
    return list(dict.fromkeys((fold(login), fold(map_width(login)))))


def _check_nickname(name: str) -> str:
    if not all(map(_is_plain_in_name, name)):
        _check_visible(name)
        _enforce(_NICKNAME, _mask_emoji(name))
    return name


def _check_visible(text: str) -> None:
    for character in text:
        if character in _BLANK:
            raise ValueError(_refusal(character))


def _mask_emoji(name: str) -> str:
    """Replace each sequence of emoji by an asterisk: PRECIS forbids its invisible parts."""
    kinds = "".join(_KINDS.get(character) or _kind(character) for character in name)
    masked, end = [], 0
    for match in _EMOJI.finditer(kinds):
        masked += [name[end : match.start()], "*"]
        end = match.end()
    return "".join([*masked, name[end:]])


def _kind(character: str) -> str:
    return "S" if unicodedata.category(character) in ("Sm", "So") else "."


def _is_sign(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS" and character not in _BLANK


# A text of plain characters alone is valid, so most texts are checked quickly.


@lru_cache(maxsize=10_000)
def _is_plain_in_login(character: str) -> bool:
    is_allowed = _is_sign(character) or _is_allowed(_USERNAME, character)
    return is_allowed and unicodedata.bidirectional(character) not in _RIGHT_TO_LEFT


@lru_cache(maxsize=10_000)
def _is_plain_in_name(character: str) -> bool:
    return character == " " or (character not in _BLANK and _is_allowed(_NICKNAME, character))


def _is_allowed(profile: Profile, text: str) -> bool:
    try:
        profile.enforce(text)
    except UnicodeEncodeError:
        return False
    return True


def _enforce(profile: Profile, text: str) -> None:
    try:
        profile.enforce(text)
    except UnicodeEncodeError as error:
        if error.reason.endswith("/bidi_rule"):
            reason = "must not mix writing from right to left with other writing, except digits at its end"
        elif error.reason.endswith(("/not_idempotent", "/empty")):
            reason = "must not contain characters that change when they are compared"
        else:
            wrong = error.object[error.start]  # after the mappings of the profile
            typed = (it for it in text if wrong in it.lower() or wrong in unicodedata.normalize("NFKC", it).lower())
            reason = _refusal(next(typed, wrong))
        raise ValueError(reason) from None


def _refusal(character: str) -> str:
    return f"must not contain {unicodedata.name(character, 'the unknown character')} (U+{ord(character):04X})"
