"""Messages between nodes: what comes out is what went in, and what is none is refused."""

import contextlib
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import msgspec
import pytest
from brokers import AT, EPOCH, TEA, message
from hypothesis import given, strategies as st

from att.realtime.brokers.codec import (
    HEADER,
    DecodedAnnouncement,
    decode,
    decode_ephemerals,
    encode,
    encode_ephemerals,
    epoch_tag,
)
from att.realtime.ephemerals import Ephemeral

HERE, THERE = UUID(int=8 << 64), UUID(int=9 << 64)
TAG = epoch_tag(EPOCH)


def announcement(payload):
    return decode(TEA, payload, own=THERE)


def test_messages():
    """They come out in order, byte for byte, with who sent them when and the group's name of then."""
    bodies = [
        b'{"a":1.0,  "b" : 1e2}',
        '{"ü":"\\u00e9é\U0001f600"}'.encode(),
        b"{}",
        b'{"x":"' + b"y" * 100_000 + b'"}',
    ]
    events = [message(2**62 + place, body=body) for place, body in enumerate(bodies)]
    events[1] = events[1]._replace(user_id=None, name='"\n ü')
    assert announcement(encode(HERE, EPOCH, 2**62 + 7, events)) == DecodedAnnouncement(TAG, 2**62 + 7, events)


def test_a_head_alone():
    assert announcement(encode(HERE, EPOCH, 7, [])) == DecodedAnnouncement(TAG, 7, [])


def test_of_our_own():
    """A node's own payload gives only the head: it has delivered the messages itself."""
    assert decode(TEA, encode(HERE, EPOCH, 7, [message(7)]), own=HERE) == DecodedAnnouncement(TAG, 7, [])


@pytest.mark.parametrize(
    "at", [AT, datetime(1970, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, 2, 3, 999999, timezone(timedelta(hours=-9)))]
)
def test_moments(at):
    """They are the same moment, to the microsecond."""
    ((event,)) = announcement(encode(HERE, EPOCH, 1, [message(1)._replace(at=at)])).events
    assert event.at == at


def test_they_are_small():
    """There is little around the bodies."""
    body = b'{"n": 1.0}'
    assert len(encode(HERE, EPOCH, 10, [message(seq, body=body) for seq in range(1, 11)])) < 10 * (len(body) + 70)


def packed(*messages, version=1, head=7):
    return HEADER.pack(version, HERE.bytes[:8], TAG, head) + msgspec.msgpack.encode(messages)


GOOD = ("tea", 7, None, AT, b"{}")


def test_the_wrong_parts_are_the_only_fault():
    assert [event.body for event in announcement(packed(GOOD)).events] == [b"{}"]


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"x", b"\x01" * 24, HEADER.pack(1, HERE.bytes[:8], TAG, 7), packed(GOOD)[:-1], packed(GOOD) + b"x"),
        *(packed(GOOD, version=2), packed(GOOD, head=0), packed(GOOD, head=2**63)),
        *(HEADER.pack(1, HERE.bytes[:8], TAG, 7) + body for body in (b"\xc0", b"\x80", b"\xc1", b"\x91" * 5000)),
        *(packed((*GOOD[:1], seq, *GOOD[2:])) for seq in (0, -1, 2**63, "7", None, 1.5)),
        *(packed((*GOOD[:2], user, *GOOD[3:])) for user in ("x", 1, b"x")),
        *(packed((*GOOD[:3], at, GOOD[4])) for at in (None, "x", 7, datetime(2026, 1, 1))),  # noqa: DTZ001 - no zone
        *(packed((*GOOD[:4], body)) for body in (b"", b"1", b"[]", b"{", b'{"a":NaN}', b"\xff{}", b"{}x", "{}", None)),
        *(packed((*GOOD[:4], body)) for body in (b'{"a":' * 10_000, b'{"\xff":1}')),
        *(packed((None, *GOOD[1:])), packed(GOOD[:4]), packed(())),
    ],
)
def test_a_malformed_payload(payload):
    """A malformed payload is refused as a whole."""
    with pytest.raises(ValueError, match=r"."):
        announcement(payload)


@given(st.binary(max_size=200))
def test_anything(rest):
    """Any bytes are decoded or refused with ValueError."""
    for payload in (rest, HEADER.pack(1, HERE.bytes[:8], TAG, 7) + rest):
        with contextlib.suppress(ValueError):
            assert announcement(payload).head > 0


def test_ephemerals():
    """They come out as they went in, but not on their own node; events are not taken for them, nor the reverse."""
    sent = [Ephemeral(TAG, TEA, HERE, 0, 2**63 - 1, b'{ "n":1.0}'), Ephemeral(TAG, TEA, THERE, 7, 7, b"{}")]
    payload = encode_ephemerals(HERE, sent)
    assert decode_ephemerals(TEA, payload, own=THERE) == sent
    assert decode_ephemerals(TEA, payload, own=HERE) == []
    assert decode_ephemerals(TEA, encode(HERE, EPOCH, 7, [message(7)]), own=THERE) is None
    with pytest.raises(ValueError, match=r"version|cut off"):
        announcement(payload)
    for body in (b"[]", b"", b"{", b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            decode_ephemerals(TEA, encode_ephemerals(HERE, [sent[0]._replace(body=body)]), own=THERE)
    for end in range(9, len(payload)):
        with pytest.raises(ValueError, match=r"."):
            decode_ephemerals(TEA, payload[:end], own=THERE)
