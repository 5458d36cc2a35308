"""Server-sent events and their ids: what is made of the frames of att.v1."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from event_streams import Interpreter, interpret
from hypothesis import given, strategies as st

from att.protocol import event_stream, messages
from att.protocol.event_stream import ID_LIMIT, NAMED_GROUPS, EventId, EventStream, chunk, close_event
from att.protocol.frames import fragment, payload_of, text_frame
from att.protocol.messages import SEQ_LIMIT

GROUP, USER, SESSION = UUID(int=1001), UUID(int=1002), UUID(int=1003)
AT = datetime(2026, 11, 22, 2, 35, 9, 154152, tzinfo=UTC)
EPOCH = "5d1c39d1a3f04b5f8e2f6c0b7a914e22"
CHANGED = b'{"by": null, "join": "open", "name": "tea \\"5\\"", "post": "members", "history": "all", "retention": 7}'
OTHERS = [UUID(int=number) for number in range(1, 101)]


def entry(**changes):
    """An event of a log."""
    usual = {"group_id": GROUP, "name": "tea", "seq": 7, "kind": "message", "user_id": USER, "at": AT}
    body = b"{}" if changes.get("kind", "message") == "message" else b""
    return SimpleNamespace(**usual | {"body": body, "person": None} | changes)


def own_group():
    """A group in hello."""
    return entry(read=5, unread=None)


def stream():
    return EventStream(EventId(EPOCH))


def position_after(*payloads):
    """Return what the last id says after these frames."""
    events = stream()
    for payload in payloads:
        events.event(text_frame(payload))
    return events.position


@pytest.mark.parametrize(
    ("payload", "seq"),
    [
        (messages.event(entry(seq=2**40)), 2**40),
        (messages.event(entry(name='a\\","seq":1,"to":5', body=b'{"seq":9,"to":8}')), 7),
        (messages.event(entry(kind="joined", name="", person=("ann", "Ann", "Lee"))), 7),
        (messages.event(entry(kind="left")), 7),
        (messages.event(entry(kind="changed", user_id=None, body=CHANGED)), 7),
        (messages.event(entry(kind="redacted", user_id=None, body=b'{"by": null, "of": 6}')), 7),
        (messages.event(entry(kind="role", user_id=None, body=b'{"by": null, "user": null, "role": "owner"}')), 7),
        (messages.gap(GROUP, "tea", 2, 5), 5),
        (messages.rewind(GROUP, "tea", 0), 0),
    ],
)
def test_what_moves_a_position(payload, seq):
    """Each frame that a client takes a position from has an id with that position, and its bytes are the data."""
    events = stream()
    [event] = interpret(events.event(text_frame(payload)))
    assert event.data.encode() == payload
    assert event.type == json.loads(payload)["type"]
    assert EventId.parse(event.id).seqs == {GROUP: seq}
    assert event.id == str(events.position)


@pytest.mark.parametrize(
    "payload",
    [
        messages.read(GROUP, "tea", 5),
        messages.presence(GROUP, [(USER, AT)]),
        messages.presence_count(GROUP, 7),
        messages.online(GROUP, USER, is_online=True),
        messages.ephemeral(GROUP, USER, b'{"seq":9}'),
    ],
)
def test_what_does_not_move_a_position(payload):
    """Frames that are in no order with the log leave the last id as it is."""
    [event] = interpret(stream().event(text_frame(payload)), "the last one")
    assert (event.data.encode(), event.id) == (payload, "the last one")
    assert position_after(payload).seqs == {}


def test_the_position_of_hello():
    """Whoever is cut off before the first event of a group can resume, too."""
    hello = messages.hello(USER, SESSION, 25, EPOCH, [own_group()])
    events = EventStream(EventId(EPOCH, 5, {GROUP: 7}))
    [event] = interpret(events.event(text_frame(hello)))
    assert (event.type, event.data.encode()) == ("hello", hello)
    found = EventId.parse(event.id)
    assert (found.epoch, found.since, found.seqs) == (EPOCH, 5, {GROUP: 7})


def test_a_large_hello():
    """Its fragments are one event, with an id at its end."""
    parts = [*messages.hello_parts(USER, SESSION, 25, EPOCH, [own_group()] * 1_200), b""]
    assert len(parts) > 3
    events = stream()
    sent = b"".join(
        events.event(fragment(part, is_first=not number, is_last=number == len(parts) - 1))
        for number, part in enumerate(parts)
    )
    [event] = interpret(sent)
    assert (event.type, event.data.encode(), event.id) == ("hello", b"".join(parts), str(events.position))


def test_a_new_epoch():
    """From the frame ``epoch`` on the ids are of it."""
    assert position_after(messages.event(entry()), messages.epoch('new "one"')).epoch == 'new "one"'


@given(st.text('{}[]":, \r\n\t\\1e', max_size=30))
def test_strange_data(text):
    """Data may be any JSON, of any depth, and have line ends, of which each is one line feed to the client."""
    body = b'{"a":%s,\r\n"b"\r:[%s\n{"c":"\\ud800"}%s]}' % (json.dumps(text).encode(), b"[" * 5_000, b"]" * 5_000)
    payload = messages.event(entry(body=body))
    [event] = interpret(stream().event(text_frame(payload)))
    assert event.data.encode() == payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert EventId.parse(event.id).seqs == {GROUP: 7}


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_payload_of(size):
    """The payload of a frame of any size is what it was built of."""
    assert payload_of(text_frame(b"x" * size)) == b"x" * size


def test_the_close():
    """The code and the reason, and how long EventSource is to wait if the reason says so."""
    interpreter = Interpreter()
    text = close_event(1012, b"server is restarting; retry in 3 s").decode()
    [event] = filter(None, map(interpreter.take, text.split("\n")))
    assert (event.type, json.loads(event.data)) == (
        "close",
        {"code": 1012, "reason": "server is restarting; retry in 3 s"},
    )
    assert interpreter.retry == 3_000
    assert b"retry:" not in close_event(4500, b"session ended")


def test_chunk():
    """RFC 9112, section 7.1."""
    assert [chunk(b"x" * 26), chunk(b"")] == [b"1a\r\n" + b"x" * 26 + b"\r\n", b"0\r\n\r\n"]


# Ids


@given(st.integers(0, 30), st.sampled_from([0, 5, SEQ_LIMIT]), st.sampled_from([0, 2**53]), st.integers(1, 64))
def test_id(count, seq, since, length):
    """It is what it was made of, and has at most 1 KiB of visible ASCII, however many groups there are."""
    made = EventId("e" * length, since, dict.fromkeys(OTHERS[:count], seq))
    text = str(made)
    assert len(text) <= ID_LIMIT
    assert text.isascii()
    assert text.isprintable()
    found = EventId.parse(text)
    assert (found.epoch, found.since, found.seqs) == ("e" * length, since, made.seqs)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a b",
        "ü",
        "AAAA",
        str(EventId(EPOCH))[:-2],
        str(EventId("")),
        str(EventId(EPOCH, -1)),
        str(EventId(EPOCH, 0, {GROUP: -1})),
        "k" * 2_000,
    ],
)
def test_malformed(text):
    """Anything else is refused."""
    with pytest.raises(ValueError, match="must be an id"):
        EventId.parse(text)


def test_too_many_groups(monkeypatch):
    """An id that names more groups than the server does is refused."""
    monkeypatch.setattr(event_stream, "NAMED_GROUPS", 100)
    text = str(EventId(EPOCH, 0, dict.fromkeys(OTHERS[: NAMED_GROUPS + 1], 1)))
    with pytest.raises(ValueError, match="must be an id"):
        EventId.parse(text)


def test_a_group_that_is_named_stays_named():
    """Whatever comes, an id loses no group that it names: it may be behind what its time says."""
    made = EventId(EPOCH, 0, dict.fromkeys(OTHERS[:NAMED_GROUPS], 1))
    assert not made.is_crowded
    made.move(OTHERS[0], 2)
    assert not made.is_crowded
    for group_id in OTHERS[NAMED_GROUPS:]:
        made.move(group_id, 2)
    assert made.is_crowded
    assert made.seqs == dict.fromkeys(OTHERS[:NAMED_GROUPS], 1) | {OTHERS[0]: 2}


def test_advance():
    """The groups that are behind are named, then those that have changed last, and no others."""
    made = EventId(EPOCH, 0, {GROUP: 5, OTHERS[0]: 5})
    for group_id in OTHERS[1:40]:
        made.move(group_id, 7)
    recent = made.take_recent()
    assert [*recent] == OTHERS[40 - NAMED_GROUPS : 40]
    made.move(OTHERS[50], 8)
    assert made.advance(1_000, {GROUP: 4, OTHERS[60]: 3}, recent)
    assert made.since == 1_000
    assert made.seqs == {GROUP: 5, OTHERS[60]: 3, OTHERS[50]: 8} | dict.fromkeys(OTHERS[40 - NAMED_GROUPS + 3 : 40], 7)
    assert made.is_crowded
    made.move(OTHERS[70], 1)
    assert made.is_crowded
    assert made.advance(2_000, {}, {})
    assert (made.since, made.seqs, made.is_crowded) == (2_000, {OTHERS[50]: 8, OTHERS[70]: 1}, False)


def test_advance_with_much_behind():
    """An id stays as it is while more is behind than it can name."""
    made = EventId(EPOCH, 5, {GROUP: 5})
    assert not made.advance(1_000, dict.fromkeys(OTHERS[: NAMED_GROUPS + 1], 0), {})
    assert (made.since, made.seqs) == (5, {GROUP: 5})


def test_put_back():
    """What has changed meanwhile counts."""
    made = EventId(EPOCH)
    made.move(OTHERS[0], 1)
    made.move(OTHERS[1], 1)
    recent = made.take_recent()
    made.move(OTHERS[0], 2)
    made.put_back(recent)
    assert made.take_recent() == {OTHERS[0]: 2, OTHERS[1]: 1}
    assert made.take_recent() == {}
    for _ in range(2):
        made.put_back({uuid4(): 1 for _ in range(NAMED_GROUPS)})
    assert len(made.take_recent()) == NAMED_GROUPS


def test_an_event_in_fragments_is_not_interrupted():
    """Between its fragments neither a comment nor a close may be written as it is."""
    stream = EventStream(EventId("epoch"))
    states = []
    for payload, is_first, is_last in (
        (b'{"type":"hello",', True, False),
        (b'"groups":[', False, False),
        (b"]}", False, True),
    ):
        stream.event(fragment(payload, is_first=is_first, is_last=is_last))
        states.append(stream.is_amid)
    assert states == [True, True, False]
