"""Write src/shapes.d.ts: types of requests and responses by the OpenAPI document, of frames by att.v1.schema.json."""

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from att import __version__
from att.api.openapi.document import document
from att.api.routes import ROUTES

Json = Mapping[str, Any]

ROOT = Path(__file__).parents[2]
TARGET = Path(__file__).parent / "src" / "shapes.d.ts"
HEADER = "// Made by clients/js/make_types.py from the OpenAPI document and docs/att.v1.schema.json. Do not edit.\n"
NAMES = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
    "object": "{ [name: string]: any }",
}


def make_types() -> str:
    """Return the text of the file."""
    shapes = document(ROUTES, __version__)["components"]["schemas"]
    frames = json.loads((ROOT / "docs" / "att.v1.schema.json").read_text(encoding="utf-8"))["$defs"]
    sent = [option["$ref"].rpartition("/")[2] for option in frames["server"]["oneOf"]]
    parts = [_declare(name, shape, {}) for name, shape in shapes.items()]
    parts += [_declare(_frame_name(name), frames[name], frames) for name in sent]
    rows = "".join(f"  {frames[name]['properties']['type']['const']}: {_frame_name(name)};\n" for name in sent)
    parts.append(f"/** The frames that a server sends, by their type. */\nexport interface ServerFrames {{\n{rows}}}\n")
    return "\n".join([HEADER, *parts])


def _frame_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_")) + "Frame"


def _declare(name: str, schema: Json, definitions: Json) -> str:
    comment = _comment(schema)
    if schema.get("properties") and not schema.get("additionalProperties"):
        return f"{comment}export interface {name} {_object(schema, definitions)}\n"
    return f"{comment}export type {name} = {_type(schema, definitions)};\n"


def _comment(schema: Json) -> str:
    if "description" not in schema:
        return ""
    text = f"/** {' '.join(schema['description'].split())} */"
    return textwrap.fill(text, 116, subsequent_indent=" * ", break_on_hyphens=False) + "\n"


def _object(schema: Json, definitions: Json) -> str:
    required = schema.get("required", ())
    members = (
        f"{_comment(member)}{name}{'' if name in required else '?'}: {_type(member, definitions)};\n"
        for name, member in schema["properties"].items()
    )
    return f"{{\n{textwrap.indent(''.join(members), '  ')}}}"


def _type(schema: Json, definitions: Json) -> str:
    """Return the TypeScript type of a schema. Bounds and formats are not types."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _type(definitions[name], definitions) if name in definitions else name
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(dict.fromkeys(_type(option, definitions) for option in options))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " | ".join(map(json.dumps, values))
    if schema.get("type") == "array":
        item = _type(schema["items"], definitions)
        return f"({item})[]" if "|" in item else f"{item}[]"
    if schema.get("properties"):
        return _object(schema, definitions)
    return NAMES.get(schema.get("type", ""), "any")


if __name__ == "__main__":
    TARGET.write_text(make_types(), encoding="utf-8")
