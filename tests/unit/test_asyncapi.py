"""The AsyncAPI document of the WebSocket: it is valid, and has the frames of att.v1, each in its direction."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator
from node import CLIENT
from protocol_schema import SCHEMA

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
OFFICIAL = CLIENT / "node_modules" / "@asyncapi" / "specs" / "schemas" / f"{DOCUMENT['asyncapi']}.json"


def frames(side):
    """The frames of a side, by the schema."""
    return {option["$ref"] for option in SCHEMA["$defs"][side]["oneOf"]}


def references(part):
    """Yield every reference of the document."""
    for name, value in part.items() if isinstance(part, dict) else enumerate(part):
        if name == "$ref":
            yield value
        elif isinstance(value, dict | list):
            yield from references(value)


def follow(reference):
    """Return what a reference names. One to another file is to the schema of the frames."""
    file, _, pointer = reference.partition("#/")
    assert file in ("", "./att.v1.schema.json")
    found = SCHEMA if file else DOCUMENT
    for name in pointer.split("/"):
        found = found[name]
    return follow(found["$ref"]) if "$ref" in found else found


@pytest.mark.skipif(not OFFICIAL.exists(), reason="npm has not installed clients/js; make test does it")
def test_valid():
    """The schema of the AsyncAPI Initiative finds no fault."""
    schema = json.loads(OFFICIAL.read_text(encoding="utf-8"))
    assert [error.message for error in Draft7Validator(schema).iter_errors(DOCUMENT)] == []


def test_references():
    """Each names something."""
    assert all(follow(reference) for reference in references(DOCUMENT))


def test_frames():
    """Every frame is a message, and every message a frame, sent or received as the schema says, under its type."""
    found = {"send": set(), "receive": set()}
    for operation in DOCUMENT["operations"].values():
        if operation["channel"]["$ref"] == "#/channels/attV1":
            answers = operation.get("reply", {}).get("messages", [])
            for direction, messages in ((operation["action"], operation["messages"]), ("send", answers)):
                found[direction] |= {follow(message["$ref"])["payload"]["$ref"] for message in messages}
    file = "./att.v1.schema.json"
    expected = {"send": frames("server"), "receive": frames("client")}
    assert found == {direction: {file + reference for reference in names} for direction, names in expected.items()}

    channel = {name: follow(message["$ref"]) for name, message in DOCUMENT["channels"]["attV1"]["messages"].items()}
    assert {message["payload"]["$ref"] for message in channel.values()} == found["send"] | found["receive"]
    for name, message in channel.items():
        assert message["payload"]["$ref"] == f"{file}#/$defs/{name}"
        assert message["name"] == follow(message["payload"]["$ref"])["properties"]["type"]["const"]
