"""Examples of shapes in the documentation."""

from typing import Any

from pydantic import BaseModel, RootModel

from att.api.routes import EXAMPLES
from att.http.schemas import PageOut


def example_of(shape: type[BaseModel]) -> Any:
    """Return the example of a shape; for a page or a list, one with a single item. Raises KeyError without one."""
    if shape in EXAMPLES:
        return EXAMPLES[shape]
    if issubclass(shape, RootModel):
        return [example_of(_item(shape.model_fields["root"].annotation))]
    metadata = shape.__pydantic_generic_metadata__
    item = {"items": [example_of(_item(metadata["args"]))]}
    return item | {"next": None} if metadata["origin"] is PageOut else item


def _item(annotation: Any) -> type[BaseModel]:
    """Return the shape of the items of ``list[shape]``, ``PageOut[shape]`` or ``ItemsOut[shape]``."""
    found: type[BaseModel] = annotation[0] if isinstance(annotation, tuple) else annotation.__args__[0]
    return found
