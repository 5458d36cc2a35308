"""JSON texts of clients: what is accepted, and what is not built."""

import json

import pytest
from hypothesis import given, strategies as st

from att.core import json_text

MANY = b'{"a":[' + b",".join([b"[" * 150 + b"]" * 150] * 1_000) + b"]}"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('ab[]{},:"\\\u00e9\ud800\n'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a[]{},"\\', max_size=4), inner, max_size=4),
)


def checked(data):
    """Return the type that ``is_object`` finds, False if it refuses the text."""
    try:
        return dict if json_text.is_object(data) else "another"
    except ValueError:
        return False


def built(data):
    """Return the same of the parser that builds objects."""
    try:
        return dict if isinstance(json_text.parse(data), dict) else "another"
    except ValueError:
        return False


@given(JSON, st.booleans(), st.integers(0, 40), st.binary(max_size=2))
def test_a_text_is_checked_as_it_would_be_built(value, ascii_only, at, noise):
    """Valid or not, with damage at any place."""
    text = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    for data in (text, b'{"a":%s}' % text, text[:at] + noise + text[at:], text[:at] + text[at + 1 :]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_text, "FEW", 0)
            assert checked(data) == built(data), data


@given(JSON)
def test_values_are_counted(value):
    """Separators in strings do not count."""

    def count(one):
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        # An empty list or object still has a bracket.
        return 1 + max(sum(map(count, inner)) if inner else 0, isinstance(one, list | dict) and not inner)

    data = json.dumps(value).encode()
    commas_and_brackets = sum(json_text._structure(data).count(sign) for sign in (b",", b"["))
    values = count(value)
    assert commas_and_brackets <= values <= 2 * commas_and_brackets + 1


def test_a_large_text_is_not_built(monkeypatch):
    """A list costs two bytes to send, a hundred times as much to build: a text with many values is only checked."""
    parsed = []
    monkeypatch.setattr(json_text, "from_json", lambda data, **_: parsed.append(len(data)))
    assert json_text.is_object(MANY)
    assert not parsed
    assert not json_text.is_object(b"{}")
    assert parsed == [2]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (MANY.replace(b"[" * 150 + b"]" * 150, b"[" * 300 + b"]" * 300, 1), "nested too deeply"),
        (MANY[:-1] + b',"b":' + b"9" * 4301 + b"}", "4300 digits"),
        (MANY[:-1] + b',"b": -' + b"9" * 4301 + b"}", "4300 digits"),
        (MANY[:-1] + b',"b":"\xff"}', "utf-8"),
        (MANY[:-1], "truncated"),
        (MANY[:-1] + b',"b":NaN}', "invalid"),
    ],
)
def test_faults_of_a_large_text(data, fault):
    """They are found as in a small one."""
    with pytest.raises(ValueError, match=fault):
        json_text.is_object(data)


@pytest.mark.parametrize("more", [b'"9%s"' % (b"9" * 4301), b"0.%s" % (b"9" * 4301), b'"[\\"[[[%s"' % (b"[" * 300)])
def test_a_large_text_with_long_strings(more):
    """Digits of a string and of a fraction are no whole number, and brackets in a string do not nest."""
    assert json_text.is_object(MANY[:-1] + b',"b":' + more + b"}")


def test_a_large_list_is_no_object():
    """It is JSON, though."""
    assert not json_text.is_object(b" [" + MANY + b"]")


def test_a_large_text_is_checked_in_steps():
    """None of them builds anything, and the brackets are counted in several."""
    nest = b"[" * 150 + b"]" * 150
    large = b'{"a":[' + b",".join([nest] * 3_000) + b"]}"
    steps, is_object = json_text.checking(large), []

    def run():
        is_object.append((yield from steps))

    assert len([*run()]) == 3 + json_text._STEPS // json_text._LOOKS
    assert is_object == [True]
    assert [*json_text.checking(b"{}")] == []
