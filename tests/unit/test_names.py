"""Names: validity and equality."""

import re
import unicodedata
from uuid import UUID

import pytest
from hypothesis import example, given, strategies as st

from att.core import names
from att.core.names import (
    check_group_name,
    check_key,
    check_name,
    check_password,
    check_password_size,
    fold,
    normalise,
    parse_uuid,
)

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
ID = "0f2a7c1e-5b3d-4c8f-9a6e-1d2b3c4d5e6f"
PASSWORD_COMPLAINTS = ("must have at least 6 characters", "must have at most 1024 bytes", "must be Unicode text")
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too

TOO_LONG_OR_SHORT = "must have 1 to 64 characters"
SPACE_AROUND = "must not begin or end with a space"
CONTROL = "must not contain control characters"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "aNN"),
        ("Straße", "STRASSE"),
        (COMPOSED, DECOMPOSED),
        (COMPOSED, DECOMPOSED.upper()),
        ("\u0130", "i\u0307"),  # Turkish İ, and what it is without its case
        ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("\u212b", "\u00e5"),  # the angstrom sign, and å
        ("\u1fb3", "\u0391\u0399"),  # alpha with iota below, and in capitals
        ("\u03b1\u0345\u0301", "\u1fb4"),  # the iota below, which is a letter when folded, before the accent
        ("a\u0323\u0307", "a\u0307\u0323"),  # marks in either order
    ],
)
def test_same_name(one, other):
    """Names that differ in case, or in how their accents are written, are the same name."""
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("ann", "anna"), ("e", "\u00e9"), ("i", "\u0131"), ("i", "\u0130"), ("\u2460", "1"), ("a b", "a\u00a0b")],
)
def test_other_name(one, other):
    """Names with other accents differ, and so do characters that only look alike."""
    assert fold(one) != fold(other)


@given(ANY_TEXT)
@example("\u0345\u0391")
@example("\u03b1\u0345\u0301")
@example("\u1e9e\u0130")
def test_fold_is_stable(text):
    """Folding twice equals folding once, and the normal form of the text changes nothing."""
    key = fold(text)
    assert fold(key) == key == normalise(key)
    assert {fold(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")} == {key}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a", "a"),
        ("a" * 64, "a" * 64),
        (DECOMPOSED, COMPOSED),
        ("e\u0301" * 64, "\u00e9" * 64),  # 128 characters before NFC
        ("Ann van der Berg", "Ann van der Berg"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("a/b", "a/b"),
        (ID, ID),
    ],
)
def test_name(text, name):
    """A name is stored as typed, but in NFC; its length is that of the NFC form."""
    assert check_name(text) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", TOO_LONG_OR_SHORT),
        ("a" * 65, TOO_LONG_OR_SHORT),
        ("e\u0301" * 65, TOO_LONG_OR_SHORT),
        ("\u0958" * 33, TOO_LONG_OR_SHORT),  # each is two characters in NFC
        (" ", SPACE_AROUND),
        (" a", SPACE_AROUND),
        ("a ", SPACE_AROUND),
        ("\u00a0a", SPACE_AROUND),
        ("a\u3000", SPACE_AROUND),
        ("a\x00b", CONTROL),
        ("a\nb", CONTROL),
        ("a\tb", CONTROL),
        ("a\x7fb", CONTROL),
        ("a\x85b", CONTROL),
        ("a\u2028b", CONTROL),
        ("a\u2029b", CONTROL),
        ("a\ud800", CONTROL),
        ("\udfffa", CONTROL),
    ],
)
def test_no_name(text, message):
    """An invalid name is refused with a reason for people."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_name(text)


@given(ANY_TEXT)
@example("e\u0301" * 64)
@example("\u0958" * 33)
def test_name_is_whole(text):
    """A text is a valid name, which a second check does not change and the database can store, or a ValueError."""
    try:
        name = check_name(text)
    except ValueError:
        return
    assert check_name(name) == name == normalise(text)
    assert 1 <= len(name) <= 64
    assert "\0" not in name
    assert name.encode().decode() == name


@pytest.mark.parametrize("text", ["tea", "...", ".a", "a.b", "..a", "a\\b", ID[:-1], f"{ID} or so", "urn:uuid:"])
def test_group_name(text):
    """A text that is only similar to a path or an id may be a group's name."""
    assert check_group_name(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [(text, "must not contain '/', or be '.' or '..'") for text in ("/", "a/b", "/a", "a/", ".", "..")]
    + [(text, SPACE_AROUND) for text in (" tea", "tea\u00a0")]
    + [(text, TOO_LONG_OR_SHORT) for text in ("", "a" * 65)],
)
def test_no_group_name(text, message):
    """A group's name is a valid name and fits into one segment of a path."""
    with pytest.raises(ValueError) as caught:
        check_group_name(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "form",
    [
        ID,
        ID.upper(),
        ID.replace("-", ""),
        "{" + ID + "}",
        f"urn:uuid:{ID}",
        f"uuid:{ID}",
        "0f2a-7c1e5b3d4c8f9a6e1d2b3c4d5e6f",
        ID.translate({digit: digit + 0xFEE0 for digit in b"0123456789"}),  # full-width digits
        "+" + ID.replace("-", "")[1:],
        "0_" + ID.replace("-", "")[2:],
    ],
)
def test_group_name_is_no_id(form):
    """No group name is an id, in any form that Python accepts."""
    UUID(form)
    with pytest.raises(ValueError, match="must not be a UUID"):
        check_group_name(form)


@pytest.mark.parametrize("text", ["123456", "a" * 1024, "\u20ac" * 341 + "a", "      ", "a\x00bcde", "e\u0301" * 6])
def test_password(text):
    """A password has six characters and up to 1024 bytes of UTF-8, of any kind, in NFC."""
    assert check_password(text) == normalise(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have at least 6 characters"),
        ("12345", "must have at least 6 characters"),
        ("e\u0301" * 5, "must have at least 6 characters"),
        ("a" * 1025, "must have at most 1024 bytes"),
        ("\u20ac" * 341 + "ab", "must have at most 1024 bytes"),
        ("\U0001f511" * 256 + "a", "must have at most 1024 bytes"),
    ],
)
def test_no_password(text, message):
    """A password that is too short or too long is refused, with the same message whatever was typed."""
    with pytest.raises(ValueError) as caught:
        check_password(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["", "12345", "a" * 1024, "\u20ac" * 341 + "a"])
def test_typed_password(text):
    """At log-in a short password is allowed: it is simply wrong."""
    assert check_password_size(text) == text


@pytest.mark.parametrize("text", ["a" * 1025, "\u20ac" * 342])
def test_typed_password_too_large(text):
    """At log-in a password is refused if its hash would cost too much."""
    with pytest.raises(ValueError, match=r"^must have at most 1024 bytes$"):
        check_password_size(text)


@pytest.mark.parametrize("check", [check_password, check_password_size])
def test_password_that_is_no_text(check):
    """A lone surrogate cannot be written in UTF-8, so it cannot be hashed."""
    with pytest.raises(ValueError, match="must be Unicode text"):
        check("correct\ud800horse")


@given(ANY_TEXT)
@example("\ud800" * 6)
@example("secret\udfff" * 200)
def test_password_is_not_repeated(text):
    """No text crashes the check, and no message contains what was typed."""
    for check in (check_password, check_password_size):
        message = None
        try:
            assert check(text) == normalise(text)
        except ValueError as error:
            message = str(error)
        assert message in (None, *PASSWORD_COMPLAINTS)


@pytest.mark.parametrize(
    "text", [ID, ID.upper(), "00000000-0000-0000-0000-000000000000", "f" * 8 + "-ffff" * 4 + "F" * 8]
)
def test_parse_uuid(text):
    """An id has 8-4-4-4-12 hexadecimal digits, in either case."""
    assert parse_uuid(text) == UUID(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tea",
        ID[:-1],
        ID + "0",
        f" {ID}",
        f"{ID}\n",
        ID.replace("-", ""),
        "{" + ID + "}",
        f"urn:uuid:{ID}",
        "0f2a7c1e5-b3d-4c8f-9a6e-1d2b3c4d5e6f",
        ID.replace("0", "\uff10"),
        "+" + ID[1:],
        "g" + ID[1:],
        "\ud800" + ID[1:],
    ],
)
def test_parse_no_uuid(text):
    """Other forms are no ids, though uuid.UUID accepts some of them."""
    assert parse_uuid(text) is None


@given(st.uuids(), st.data())
def test_parse_uuid_in_any_case(value, data):
    """Each letter may be in either case."""
    text = "".join(data.draw(st.sampled_from((letter, letter.upper()))) for letter in str(value))
    assert parse_uuid(text) == value


@pytest.mark.parametrize("check", [check_name, check_group_name, check_password, check_password_size])
def test_long_text_is_not_normalised(check, monkeypatch):
    """The time to normalise grows with the square of the length: one body could block the server for seconds."""
    lengths = []
    monkeypatch.setattr(names, "normalise", lambda text: lengths.append(len(text)) or text)
    with pytest.raises(ValueError, match="must have"):
        check("a" + "\u0300\u0327" * 60_000)
    assert lengths
    assert max(lengths) <= names.RAW_LENGTH


@pytest.mark.parametrize("key", ["k", "a b", "!~", "x" * 200, "3f2b-7", '"\\'])
def test_key(key):
    """A key may be any text that a header can carry unchanged."""
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key", ["", " ", " k", "k ", "k\n", "\nk", "a\tb", "x" * 201, "\u00e9", "\x7f", "\0", "k\r\n", "\ud800"]
)
def test_no_key(key):
    """A key that a header would change or could not carry is refused."""
    with pytest.raises(ValueError, match=re.escape("must have 1 to 200 printable ASCII characters")):
        check_key(key)
