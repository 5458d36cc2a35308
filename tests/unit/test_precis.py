"""Characters of new logins and names."""

import pytest
from hypothesis import given, strategies as st
from precis_i18n import get_profile

from att.core.names import NAME_LENGTH
from att.core.precis import check_group_name, check_login, check_name, check_person_name, login_keys

CHECKS = (check_login, check_name, check_person_name, check_group_name)

INVISIBLE = {
    "\u200b": "ZERO WIDTH SPACE (U+200B)",
    "root\u200b": "ZERO WIDTH SPACE (U+200B)",
    "ro\u00adot": "SOFT HYPHEN (U+00AD)",
    "\u202e": "RIGHT-TO-LEFT OVERRIDE (U+202E)",
    "\u3164": "HANGUL FILLER (U+3164)",
    "\u2800": "BRAILLE PATTERN BLANK (U+2800)",
    "a\u2800": "BRAILLE PATTERN BLANK (U+2800)",
    "\ufeff": "ZERO WIDTH NO-BREAK SPACE (U+FEFF)",
    "\u2066a": "LEFT-TO-RIGHT ISOLATE (U+2066)",
    "a\u200db": "ZERO WIDTH JOINER (U+200D)",
    "a\ufe0f": "VARIATION SELECTOR-16 (U+FE0F)",
    "a\U000e0041": "TAG LATIN CAPITAL LETTER A (U+E0041)",
    "a\U0001d159": "MUSICAL SYMBOL NULL NOTEHEAD (U+1D159)",
    "\U0001f469\u200d": "ZERO WIDTH JOINER (U+200D)",
    "a\u0378": "the unknown character (U+0378)",
}
EMOJI = [
    "\U0001f469\u200d\U0001f4bb",  # a woman at a computer
    "\U0001f575\U0001f3fd\u200d\u2642\ufe0f",  # a detective, with a colour of skin
    "\U0001f3f3\ufe0f\u200d\U0001f308",  # a flag of the rainbow
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England, spelled in tags
    "\U0001f1eb\U0001f1f7",
    "\u2764\ufe0f and 1\ufe0f\u20e3",
    "\U0001fae8",  # newer than the Unicode of Python 3.11
]


@pytest.mark.parametrize("check", CHECKS)
def test_invisible(check):
    """No login or name has characters without ink; the reason names the first of them as it was sent."""
    for text, character in INVISIBLE.items():
        with pytest.raises(ValueError, match=r"^must not contain ") as refused:
            check(text)
        assert str(refused.value) == f"must not contain {character}"


@pytest.mark.parametrize("check", CHECKS)
def test_emoji(check):
    """Emoji may have the invisible characters that belong to them."""
    for text in EMOJI:
        assert check(text) == text


@pytest.mark.parametrize(
    "login",
    [
        "ann.lee+test@example.org",
        "Ann van der Berg",
        "李 小龙",
        "卡尔·马克思",
        "O\u2019Brien",
        "Ångström",
        "\u05d3\u05d5\u05d31",  # from right to left, with a digit at the end
        "\u0646\u0627\u0645\u0647\u200c\u0627\u06cc",  # Persian, with a non-joiner where it changes the shape
        "\u0e19\u0e49\u0e33",  # Thai, with a letter that PRECIS allows only as two
    ],
)
def test_login(login):
    """Logins are those of UsernameCaseMapped, also with capitals, spaces, signs, and some letters of Thai and Lao."""
    assert check_login(login) == login


@pytest.mark.parametrize(
    ("login", "complaint"),
    [
        ("a\u00a0b", "NO-BREAK SPACE"),
        ("\ufb01", "LATIN SMALL LIGATURE FI"),
        ("\u2163", "ROMAN NUMERAL FOUR"),
        ("a\u05d3", "must not mix writing from right to left"),
        ("", "must have 1 to 64"),
        ("a ", "begin or end with a space"),
    ],
)
def test_no_login(login, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_login(login)


def test_width():
    """A login is stored in ordinary width, and found by either; one from an earlier release is found first."""
    assert check_login("\uff32oot\uff76\uff9e") == "Root\u30ac"
    assert login_keys("\uff32oot") == ["\uff52oot", "root"]
    assert login_keys("Root") == ["root"]


@given(st.text(st.characters(categories=("L", "M", "N", "P", "Zs", "Cf")), min_size=1, max_size=8))
def test_profiles(text):
    """Whatever the profiles of RFC 8265 and 8266 allow is allowed."""
    for profile, check in (("UsernameCaseMapped", check_login), ("Nickname", check_name)):
        try:
            get_profile(profile).enforce(text)
        except UnicodeEncodeError:
            continue
        if text == text.strip() and len(text) <= NAME_LENGTH:
            check(text)


def test_other_rules_hold():
    """What was forbidden still is; first and last names may be empty."""
    assert check_person_name("") == ""
    for name in ("a/b", "..", "6f1e9c1e-8f57-4a6c-9b5c-0c8a1f6d2e34"):
        assert check_name(name) == name
        with pytest.raises(ValueError, match="must not"):
            check_group_name(name)
