"""The frames of att.v1: building by the schema, exact parsing, and errors."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from hypothesis import given, strategies as st
from jsonschema import Draft202012Validator
from protocol_schema import SCHEMA

from att.core import json_text
from att.core.names import KEY_PATTERN
from att.core.tasks import at_once
from att.errors import NotAMember, ProtocolError, QuotaExceeded, QuotaExhausted
from att.protocol import messages
from att.protocol.frames import CloseCode
from att.protocol.messages import Broadcast, EphemeralBroadcast, MarkRead, Ping, Resume, check_object, parse

GROUP = UUID("86fd539a-d29f-4d47-8ced-1e78a9e50d33")
USER = UUID("513c5a25-edc3-4715-95bc-32682b4ba522")
SESSION = UUID("8d7c4c0e-7f0a-4a53-9d0c-5a2f4a1f3a11")
AT = datetime(2026, 11, 22, 2, 35, 9, 154152, tzinfo=UTC)
G, U, T = f'"group":"{GROUP}"', f'"user":"{USER}"', '"at":"2026-11-22T02:35:09.154152Z"'
EPOCH = "5d1c39d1a3f04b5f8e2f6c0b7a914e22"
E = f'"epoch":"{EPOCH}"'
EXHAUSTED = '"type":"error","id":1,"error":"quota exhausted"'
CHANGED = b'{"by": null, "join": "open", "name": "tea \\"5\\"", "post": "members", "history": "all", "retention": 7}'
STANDING = f'{{"id":"{GROUP}","name":"tea","seq":7,"read":5,"unread":null}}'


def of(side):
    """Return True if a value is a frame of that side, and of that type if given."""
    return Draft202012Validator({"$ref": f"#/$defs/{side}", "$defs": SCHEMA["$defs"]})


def entry(**changes):
    """An event of a log."""
    body = b"{}" if changes.get("kind", "message") == "message" else b""
    usual = {
        "group_id": GROUP,
        "name": "tea",
        "seq": 7,
        "kind": "message",
        "user_id": USER,
        "at": AT,
        "body": body,
        "person": None,
    }
    return SimpleNamespace(**usual | changes)


def own_group(**changes):
    """A group in hello."""
    return entry(read=5, unread=None, **changes)


def types_of(side):
    """The types of a side's frames, as the schema has them."""
    names = [choice["$ref"].rpartition("/")[2] for choice in SCHEMA["$defs"][side]["oneOf"]]
    return {SCHEMA["$defs"][name]["properties"]["type"]["const"] for name in names}


FRAMES = [
    (
        messages.hello(USER, SESSION, 25, EPOCH, [own_group()]),
        f'{{"type":"hello","user_id":"{USER}","session_id":"{SESSION}","heartbeat":25,{E},"groups":[{STANDING}]}}',
    ),
    (messages.hello(USER, SESSION, 0.5, EPOCH, []), None),
    (
        messages.event(entry(body=b'{ "cups" :2.0}')),
        f'{{"type":"message",{G},"name":"tea","seq":7,"from":"{USER}",{T},"data":{{ "cups" :2.0}}}}',
    ),
    (
        messages.event(entry(user_id=None)),
        f'{{"type":"message",{G},"name":"tea","seq":7,"from":null,{T},"data":{{}}}}',
    ),
    (
        messages.event(entry(kind="joined", person=("ann", "Ann", 'O"Lee'))),
        (
            f'{{"type":"joined",{G},"name":"tea","seq":7,"user":'
            f'{{"id":"{USER}","login":"ann","first_name":"Ann","last_name":"O\\"Lee"}},{T}}}'
        ),
    ),
    (
        messages.event(entry(kind="joined")),
        (
            f'{{"type":"joined",{G},"name":"tea","seq":7,"user":'
            f'{{"id":"{USER}","login":null,"first_name":null,"last_name":null}},{T}}}'
        ),
    ),
    (messages.event(entry(kind="left", name="")), f'{{"type":"left",{G},"name":"","seq":7,{U},{T}}}'),
    (
        messages.event(entry(kind="left", body=b'{"by": null, "removed": true}')),
        f'{{"type":"left",{G},"name":"tea","seq":7,{U},{T},"by": null, "removed": true}}',
    ),
    (
        messages.event(entry(kind="changed", user_id=None, name="later", body=CHANGED)),
        f'{{"type":"changed",{G},"seq":7,{T},{CHANGED[1:].decode()}',
    ),
    (
        messages.event(entry(kind="role", user_id=None, body=f'{{"by": null, {U}, "role": "owner"}}'.encode())),
        f'{{"type":"role",{G},"name":"tea","seq":7,{T},"by": null, {U}, "role": "owner"}}',
    ),
    (
        messages.event(entry(kind="redacted", user_id=None, body=f'{{"by": "{USER}", "of": 3}}'.encode())),
        f'{{"type":"redacted",{G},"name":"tea","seq":7,{T},"by": "{USER}", "of": 3}}',
    ),
    (
        messages.event(entry(body=b"null")),
        f'{{"type":"message",{G},"name":"tea","seq":7,"from":"{USER}",{T},"data":null}}',
    ),
    (
        messages.ephemeral(GROUP, USER, b'{ "cups" :2.0}'),
        f'{{"type":"ephemeral",{G},"from":"{USER}","data":{{ "cups" :2.0}}}}',
    ),
    (messages.ephemeral_ack("a", GROUP), f'{{"type":"ack","id":"a",{G}}}'),
    (messages.gap(GROUP, "tea", 3, 9), f'{{"type":"gap",{G},"name":"tea","from":3,"to":9}}'),
    (messages.rewind(GROUP, "tea", 0), f'{{"type":"rewind",{G},"name":"tea","to":0}}'),
    (messages.read(GROUP, "tea", 7), f'{{"type":"read",{G},"name":"tea","seq":7}}'),
    (
        messages.presence(GROUP, [(USER, datetime(2026, 11, 22, tzinfo=UTC))]),
        f'{{"type":"presence",{G},"users":[{{"user":"{USER}","since":"2026-11-22T00:00:00.000000Z"}}]}}',
    ),
    (messages.presence_count(GROUP, 101), f'{{"type":"presence",{G},"count":101}}'),
    (messages.online(GROUP, USER, is_online=True), f'{{"type":"online",{G},"user":"{USER}"}}'),
    (messages.online(GROUP, USER, is_online=False), f'{{"type":"offline",{G},"user":"{USER}"}}'),
    (messages.epoch(EPOCH), f'{{"type":"epoch",{E}}}'),
    (messages.ack("a", GROUP, 7, AT, EPOCH), f'{{"type":"ack","id":"a",{G},"seq":7,{T},{E}}}'),
    (messages.ack(-3, GROUP, 7, AT, EPOCH), f'{{"type":"ack","id":-3,{G},"seq":7,{T},{E}}}'),
    (
        messages.error(1, NotAMember()),
        '{"type":"error","id":1,"error":"not a member","detail":"Only members of the group may do this."}',
    ),
    (
        messages.error("a", QuotaExceeded("log", "Too much.")),
        '{"type":"error","id":"a","error":"quota exceeded","detail":"Too much.","quota":"log"}',
    ),
    (
        messages.error(1, QuotaExhausted("broadcasts", "Slowly.", 2)),
        f'{{{EXHAUSTED},"detail":"Slowly. Try again in 2 seconds.","quota":"broadcasts","retry_after":2}}',
    ),
    (messages.error(None, NotAMember('"')), '{"type":"error","id":null,"error":"not a member","detail":"\\""}'),
    (messages.PONG, '{"type":"pong"}'),
]


# What the server sends


@pytest.mark.parametrize(("frame", "text"), FRAMES)
def test_frame(frame, text):
    """Each frame is as it is written, compact, and as the schema says, without a member that it does not name."""
    assert text in (None, frame.decode())
    value = json.loads(frame)
    of("server").validate(value)
    of(value["type"]).validate(value)
    named = SCHEMA["$defs"][value["type"]]
    assert set(named["required"]) <= set(value) <= set(named["properties"])


def test_every_frame_is_shown():
    """The table above has every type that the schema knows."""
    shown = {json.loads(frame)["type"] for frame, _ in FRAMES}
    assert shown == types_of("server")


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=64), st.text())
def test_text(name, text):
    """Whatever a group is called and whatever is said, the frames are JSON that says just that."""
    frames = [
        messages.event(entry(name=name)),
        messages.event(entry(name=name, kind="joined")),
        messages.gap(GROUP, name, 1, 2),
        messages.rewind(GROUP, name, 1),
        messages.hello(USER, SESSION, 25, EPOCH, [own_group(name=name)]),
    ]
    names = [value.get("name", value.get("groups", [{}])[0].get("name")) for value in map(json.loads, frames)]
    assert names == [name] * 5
    assert json.loads(messages.ack(text, GROUP, 1, AT, EPOCH))["id"] == text


@pytest.mark.parametrize("hours", [-9.5, 0, 2])
def test_time(hours):
    """Times are in UTC with microseconds, whatever the database's time zone."""
    zone = timezone(timedelta(hours=hours))
    assert messages.timestamp(AT.astimezone(zone)) == "2026-11-22T02:35:09.154152Z"
    assert messages.timestamp(AT.replace(microsecond=0).astimezone(zone)) == "2026-11-22T02:35:09.000000Z"


# What the client sends


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"type":"ping"}', Ping()),
        (' {"type" : "p\\u0069ng"}\n', Ping()),
        ('{"type":"resume"}', Resume({})),
        ('{"groups":{},"type":"resume"}', Resume({})),
        ('{"type":"resume","presence":true}', Resume({}, presence=True)),
        (f'{{"type":"resume","groups":{{"{GROUP}":0,"{str(USER).upper()}":7}}}}', Resume({GROUP: 0, USER: 7})),
        (f'{{"type":"resume","epoch":"{"~" * 64}","groups":{{}}}}', Resume({}, "~" * 64)),
        ('{"type":"broadcast","id":1,"group":"tea","data":{}}', Broadcast(1, "tea", b"{}", None)),
        ('{"type":"read","group":"tea","seq":0}', MarkRead("tea", 0)),
        (f'{{"type":"read","group":"{GROUP}","seq":{2**63 - 1}}}', MarkRead(GROUP, 2**63 - 1)),
        ('{"type":"broadcast","ephemeral":false,"id":1,"group":"g","data":{}}', Broadcast(1, "g", b"{}", None)),
        ('{"type":"broadcast","ephemeral":true,"group":"g","data":{}}', EphemeralBroadcast(None, "g", b"{}")),
        (
            f'{{"type":"broadcast","ephemeral":true,"group":"{GROUP}","data":{{}},"id":7}}',
            EphemeralBroadcast(7, GROUP, b"{}"),
        ),
        (
            f'{{"data":{{"a":[1,"\\u00e9"]}},"key":"a b","id":"x","group":"{GROUP}","type":"broadcast"}}',
            Broadcast("x", GROUP, b'{"a":[1,"\\u00e9"]}', "a b"),
        ),
    ],
)
def test_parse(text, frame):
    """Members may stand in any order; an id is one, in either case; bytes are read like text; the schema agrees."""
    assert parse(text) == frame
    assert parse(text.encode()) == frame
    assert type(parse(text)) is type(frame)
    of("client").validate(json.loads(text))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


@given(OBJECTS, st.sampled_from([None, 0, 3]), st.booleans(), st.sampled_from(["", " ", "\n\t "]))
def test_data_is_kept(value, indent, ascii_only, space):
    """The bytes of a broadcast's data are kept."""
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    frame = parse(f'{{"type":"broadcast","id":1,"group":"g","data":{space}{data}{space}}}')
    assert frame.data == data.encode()
    assert messages.event(entry(body=frame.data)).endswith(b'"data":' + data.encode() + b"}")


@pytest.mark.parametrize("data", ['{"a":1,"a":2}', '{"n":1e400}', '{"n":-0.10}', '{"s":"\\/\\ud83d\\ude00"}'])
def test_data_is_not_understood(data):
    """Doubled members, long numbers and escapes are nobody's business but the listeners'."""
    assert parse(f'{{"type":"broadcast","id":1,"group":"g","data":{data}}}').data == data.encode()


def broadcast(**members):
    """The text of a broadcast with these members, each as JSON; None leaves it out."""
    usual = {"type": '"broadcast"', "id": "1", "group": '"g"', "data": "{}"}
    given = {name: text for name, text in (usual | members).items() if text is not None}
    return "{" + ",".join(f'"{name}":{text}' for name, text in given.items()) + "}"


def nested(opening, depth, closing):
    """An object so deep."""
    return '{"a":' + opening * depth + "1" + closing * depth + "}"


DEEP = 100_000
REFUSED = [
    ("", "truncated"),
    ("nonsense", "malformed"),
    ('{"type":"ping"', "truncated"),
    ('{"type":"ping"} {"type":"ping"}', "trailing"),
    ('\ufeff\ufeff{"type":"ping"}', "malformed"),
    ("[]", "Expected `object`"),
    ('"ping"', "Expected `object`"),
    ("[" * DEEP, "Expected `object`"),
    ("{}", "`type`"),
    ('{"type":1}', "$.type"),
    ('{"type":"hello"}', "Invalid value 'hello'"),
    ('{"type":"ping","type":"resume"}', "resume"),
    ('{"type":"ping","id":1}', "unknown field `id`"),
    (f'{{"x":{"[" * DEEP}{"]" * DEEP},"type":"ping"}}', "too deeply"),
    ('{"type":"resume","groups":null}', "$.groups"),
    ('{"type":"resume","groups":[]}', "$.groups"),
    ('{"type":"resume","groups":{"tea":1}}', "groups: each is named by its id"),
    (f'{{"type":"resume","groups":{{"{GROUP.hex}":1}}}}', "groups: each is named by its id"),
    (f'{{"type":"resume","groups":{{"{GROUP}":-1}}}}', ">= 0"),
    (f'{{"type":"resume","groups":{{"{GROUP}":9223372036854775808}}}}', "<= 9223372036854775807"),
    (f'{{"type":"resume","groups":{{"{GROUP}":1.5}}}}', "Expected `int`"),
    (f'{{"type":"resume","groups":{{"{GROUP}":true}}}}', "Expected `int`"),
    (f'{{"type":"resume","groups":{{"{GROUP}":"1"}}}}', "Expected `int`"),
    ('{"type":"resume","epoch":""}', "$.epoch"),
    ('{"type":"resume","epoch":null}', "$.epoch"),
    (f'{{"type":"resume","epoch":"{"e" * 65}"}}', "$.epoch"),
    ('{"type":"resume","epoch":"a b"}', "$.epoch"),
    (broadcast(id=None), "`id`"),
    (broadcast(id="null"), "$.id"),
    (broadcast(id="true"), "$.id"),
    (broadcast(id="1.5"), "$.id"),
    (broadcast(id="9223372036854775808"), "$.id"),
    (broadcast(id="1" * 5000), "$.id"),
    (broadcast(id='"%s"' % ("x" * 201)), "length <= 200"),
    (broadcast(id='"\\ud800"'), "malformed"),
    (broadcast(group=None), "`group`"),
    (broadcast(group='""'), "length >= 1"),
    (broadcast(group='"%s"' % ("x" * 257)), "length <= 256"),
    (broadcast(group='"a\\u0000"'), "group: must not contain control characters"),
    (broadcast(data=None), "`data`"),
    (broadcast(data=""), "malformed"),
    (broadcast(data="[]"), "data: must be an object"),
    (broadcast(data="null"), "data: must be an object"),
    (broadcast(data='{"a":NaN}'), "malformed"),
    (broadcast(data='{"a":-Infinity}'), "malformed"),
    (broadcast(data='{"a":01}'), "malformed"),
    (broadcast(data='{"a":1,}'), "malformed"),
    (broadcast(data="{'a':1}"), "malformed"),
    (broadcast(data='{"a":"\\ud800"}'), ""),
    (broadcast(data='{"a":"\\x"}'), "malformed"),
    (broadcast(data=nested("[", 300, "]")), "data: recursion limit"),
    (broadcast(data=nested("[", DEEP, "]")), "too deeply"),
    (broadcast(data=nested('{"a":', DEEP, "}")), "too deeply"),
    (broadcast(key="null"), "$.key"),
    (broadcast(key="1"), "$.key"),
    (broadcast(key='""'), "key: must have 1 to 200"),
    (broadcast(key='"%s"' % ("x" * 201)), "key: must have 1 to 200"),
    (broadcast(key='"a\\n"'), "key: must have"),
    (broadcast(key='" a"'), "no space at the ends"),
    (broadcast(key='"\u00e9"'), "ASCII"),
    (broadcast(kee='"a"'), "unknown field `kee`"),
    ('{"type":"read","seq":1}', "`group`"),
    ('{"type":"read","group":"","seq":1}', "length >= 1"),
    ('{"type":"read","group":"a\\u0000","seq":1}', "group: must not contain control characters"),
    ('{"type":"read","group":"tea","seq":-1}', ">= 0"),
    ('{"type":"read","group":"tea","seq":9223372036854775808}', "<= 9223372036854775807"),
    ('{"type":"read","group":"tea","seq":1,"id":1}', "unknown field `id`"),
    (broadcast(**{"x" * 500: "1"}), "unknown field `xxx"),
    ('{"type":"%s"}' % ("\u00e9" * 500), "Invalid value"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_refused(text, says):
    """The detail of a refusal fits into a close frame."""
    for given_as in (text, text.encode()):
        with pytest.raises(ProtocolError) as caught:
            parse(given_as)
        assert says in caught.value.detail
        assert 1 <= len(caught.value.reason) <= 123
        assert caught.value.detail.startswith(caught.value.reason.decode())


BORDERLINE = [
    *(nested("[", depth, "]") for depth in (199, 200)),
    *(nested('{"a":', depth, "}") for depth in (199, 200)),
    *(nested('[{"]":', depth, "}]") for depth in (99, 100)),
    *(nested('["[",', depth, "]").replace("1", "{ }") for depth in (199, 200)),
    nested("[", 300, "]"),
    *(f'{{"a":{sign}{"9" * digits}}}' for sign in ("", "-", "0.") for digits in (4300, 4301)),
    '{"a":"%s\\"","b":[]}' % ("[" * 300),
    '{"a":"%s"}' % ("9" * 5000),
    '{"a":1e400}',
    " {} ",
    '{"a":"\\ud800"}',
    "{",
    "",
    "[]",
]


@pytest.mark.parametrize("few", [json_text.FEW, 0], ids=["built", "checked"])
@pytest.mark.parametrize("data", BORDERLINE, ids=[str(number) for number in range(len(BORDERLINE))])
def test_an_object_is_what_can_be_built(data, few, monkeypatch):
    """The frame and ``POST /broadcast`` take the same objects, whether a text is built or only checked."""
    monkeypatch.setattr(json_text, "FEW", few)
    try:
        is_taken = isinstance(json_text.parse(data.encode()), dict)
    except ValueError:
        is_taken = False
    try:
        check_object(data.encode())
    except (TypeError, ValueError):
        assert not is_taken
    else:
        # A text that is only checked may be one level deeper: whether the last level is empty makes no difference.
        assert is_taken or (few == 0 and at_once(json_text._depth(data.encode())) == json_text.NESTING)


@pytest.mark.parametrize("text", [broadcast(data='{"a":"\xff"}'), broadcast(id='"\xff"'), broadcast(ÿ="1")])
def test_not_utf_8(text):
    """Bytes that are no text are refused wherever they stand."""
    with pytest.raises(ProtocolError):
        parse(text.encode("latin-1"))


def test_lone_surrogate():
    """Text that has no UTF-8 is refused, not a fault of ours."""
    with pytest.raises(ProtocolError, match="the frame is not UTF-8"):
        parse('{"type":"\ud800"}')


def test_byte_order_mark():
    """A frame may begin with a byte order mark, as JSON may (RFC 8259, section 8.1)."""
    for text in ('\ufeff{"type":"ping"}', b'\xef\xbb\xbf{"type":"ping"}'):
        assert parse(text) == parse('{"type":"ping"}')


def test_resume_limit():
    """As many groups as are allowed, and one more."""
    groups = {str(uuid4()): 1 for _ in range(10_000)}
    assert len(parse(json.dumps({"type": "resume", "groups": groups})).groups) == 10_000
    with pytest.raises(ProtocolError, match="length <= 10000"):
        parse(json.dumps({"type": "resume", "groups": groups | {str(GROUP): 1}}))


# The specification


SPECIFICATION = (Path(__file__).parents[2] / "docs" / "reference" / "realtime.md").read_text(encoding="utf-8")


def test_close_codes_are_documented():
    """The table has each code by its number, its name and its reason, and says whether to connect again."""
    rows = re.findall(r"^\| (\d{4}) \| `(\w+)` \| ([^|]*) \| (yes|no) \| [^|]{20,} \|$", SPECIFICATION, re.MULTILINE)
    assert rows == [
        (str(code.value), code.name, code.reason, "no" if 4500 <= code <= 4999 else "yes") for code in CloseCode
    ]


def test_frames_are_documented():
    """Each type of frame is shown, as the schema has it, and is read if it is a client's."""
    shown = [json.loads(line) for line in re.findall(r'^{"type":.*}$', SPECIFICATION, re.MULTILINE)]
    for frame in shown:
        Draft202012Validator(SCHEMA).validate(frame)
        if of("client").is_valid(frame):
            parse(json.dumps(frame))
    for side in ("server", "client"):
        assert {frame["type"] for frame in shown if of(side).is_valid(frame)} == types_of(side)


# The schema


def test_schema_is_one():
    """The schema itself is as JSON Schema 2020-12 has it, and knows the same keys as we."""
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$defs"]["broadcast"]["properties"]["key"]["pattern"] == KEY_PATTERN


def _is_json(text):
    try:
        json.loads(text, parse_constant=lambda _: 1 / 0)
    except (ValueError, RecursionError, ZeroDivisionError):
        return False
    return True


# What no schema can say: that a member is doubled, that a text is well-formed, how deep it may be.
BEYOND = ('{"type":"ping","type"', "too deeply", "\\ud800", "[" * 300, "a\\n")


@pytest.mark.parametrize("text", [text for text, _ in REFUSED if _is_json(text) and not any(b in text for b in BEYOND)])
def test_schema_refuses(text):
    """Whatever is JSON and refused is refused by the schema too."""
    if "[" * DEEP not in text:
        assert not of("client").is_valid(json.loads(text))


IDS = st.sampled_from([str(GROUP), str(USER).upper(), GROUP.hex, "tea", ""])
SEQS = st.sampled_from([0, 1, 2**63 - 1, 2**63, -1, "1", None, True])
TEXTS = st.text(st.characters(min_codepoint=1, exclude_categories=("Cs",)), max_size=3).filter(
    lambda text: not text.endswith("\n")  # where $ stands for Python, but not for JSON Schema
)
CLIENT_FRAMES = st.fixed_dictionaries(
    {"type": st.sampled_from(["resume", "broadcast", "read", "ping", "pong", "", None])},
    optional={
        "epoch": TEXTS | st.integers(64, 65).map("e".__mul__) | st.none(),
        "groups": st.dictionaries(IDS, SEQS, max_size=2) | st.none(),
        "id": TEXTS | SEQS | st.integers(200, 201).map("x".__mul__),
        "seq": SEQS,
        "group": TEXTS | IDS | st.integers(256, 257).map("x".__mul__),
        "data": OBJECTS | st.lists(st.none(), max_size=1),
        "key": TEXTS | st.integers(199, 201).map("k".__mul__) | st.none(),
        "extra": st.none(),
    },
)
BROADCASTS = st.fixed_dictionaries(
    {
        "type": st.just("broadcast"),
        "id": TEXTS | st.integers(),
        "group": TEXTS,
        "data": OBJECTS,
    },
    optional={"key": TEXTS},
)


@given(CLIENT_FRAMES | BROADCASTS)
def test_schema_agrees(value):
    """The schema accepts and refuses the same frames."""
    try:
        parse(json.dumps(value))
        is_taken = True
    except ProtocolError:
        is_taken = False
    assert of("client").is_valid(value) is is_taken


@pytest.mark.parametrize("frame", [json.loads(frame) for frame, _ in FRAMES])
def test_schema_is_strict(frame):
    """A frame that lacks a member, or has one of another kind, is not what the server sends."""
    for member in frame:
        assert not of("server").is_valid({name: value for name, value in frame.items() if name != member})
        if member not in ("detail", "error"):
            assert not of("server").is_valid(frame | {member: "?" * 201})
        assert not of("server").is_valid(frame | {member: [None]})


def test_one_or_the_other():
    """No frame is of both sides."""
    for frame, _ in FRAMES:
        assert not of("client").is_valid(json.loads(frame))
        Draft202012Validator(SCHEMA).validate(json.loads(frame))
    assert re.fullmatch(r"att\.v1", messages.SUBPROTOCOL)


def test_hello_in_parts(monkeypatch):
    """Few groups are encoded at once; the parts together are the frame."""
    groups = [own_group(name=f"tea {number}") for number in range(5)]
    whole = messages.hello(USER, SESSION, 25, EPOCH, groups)
    monkeypatch.setattr(messages, "HELLO_PART", 2)
    parts = [*messages.hello_parts(USER, SESSION, 25, EPOCH, iter(groups))]
    assert b"".join(parts) == whole
    assert [part.count(b'"name"') for part in parts] == [0, 2, 2, 1, 0]
    assert len(json.loads(whole)["groups"]) == 5
