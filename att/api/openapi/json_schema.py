"""JSON Schemas of the shapes for the documentation."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from att.api.openapi.examples import example_of
from att.api.route import File, Route
from att.http.schemas import QueryModel

Json = dict[str, Any]


class _Generator(GenerateJsonSchema):
    """Makes JSON Schemas without titles of members; ``PageOut[GroupOut]`` is called GroupPage."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def normalize_name(self, name: str) -> str:
        return super().normalize_name(re.sub(r"(\w+)\[(\w+)\]", r"\2\1", without_suffix(name)))


def without_suffix(name: str) -> str:
    """Return the name of a class as the document shows it: ``UserOut`` as User."""
    return re.sub(r"(?<=[a-z])(In|Out)\b", "", name)


class Schemas:
    """Schemas of all shapes of these routes: ``definitions`` by the names in references."""

    def __init__(self, routes: Iterable[Route]) -> None:
        places = dict.fromkeys(place for route in routes for place in _places(route))
        references, generated = models_json_schema(
            [*places], ref_template="#/components/schemas/{model}", schema_generator=_Generator
        )
        self._references = {place: references[place] for place in places}
        self.definitions = {name: _tidy(schema) for name, schema in generated.get("$defs", {}).items()}

    def of_query(self, shape: type[QueryModel]) -> Json:
        """Return the whole schema of a query."""
        schema: Json = self.definitions[self._references[shape, "validation"]["$ref"].rpartition("/")[2]]
        return schema

    def content(self, shapes: Any, mode: JsonSchemaMode) -> Json:
        """Return the content of a body or a response by media type: a file, or one or two shapes with examples."""
        if isinstance(shapes, File):
            return {
                media: {"schema": {"type": "object" if "json" in media else "string"}} for media in shapes.media_types
            }
        each = each_of(shapes)
        references = [self._references[shape, mode] for shape in each]
        if len(each) == 1:
            return {"application/json": {"schema": references[0], "example": example_of(each[0])}}
        examples = {without_suffix(shape.__name__): {"value": example_of(shape)} for shape in each}
        return {"application/json": {"schema": {"anyOf": references}, "examples": examples}}


def each_of(shapes: Any) -> tuple[type[BaseModel], ...]:
    """Return the shapes as a tuple of none, one or two."""
    if shapes is None or isinstance(shapes, File):
        return ()
    return shapes if isinstance(shapes, tuple) else (shapes,)


def markdown(docstring: str) -> str:
    """Return a docstring as Markdown in one line."""
    return " ".join(docstring.split()).replace("``", "`")


def _places(route: Route) -> Iterator[tuple[type[BaseModel], JsonSchemaMode]]:
    """Yield each shape with its mode: in a request or in a response."""
    for shape in (*each_of(route.body), *each_of(route.query)):
        yield shape, "validation"
    for response in route.responses.values():
        for shape in each_of(response):
            yield shape, "serialization"


def _tidy(schema: Json) -> Json:
    """Return a schema with its description in Markdown and without a title, which its name replaces."""
    description = {"description": markdown(schema["description"])} if "description" in schema else {}
    return {key: value for key, value in schema.items() if key != "title"} | description
