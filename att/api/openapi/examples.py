"""One example of each shape, as the documentation shows it."""

from typing import Any

from pydantic import BaseModel, RootModel

from att.api import schemas
from att.api.accounts import ACCOUNT_EXAMPLES
from att.api.broadcasts import BROADCAST_EXAMPLES
from att.api.events import EVENT_EXAMPLES
from att.api.groups import GROUP_EXAMPLES
from att.api.history import HISTORY_EXAMPLES
from att.api.presence import PRESENCE_EXAMPLES
from att.api.roles import ROLE_EXAMPLES
from att.api.route import Examples
from att.api.sessions import SESSION_EXAMPLES
from att.api.users import USER_EXAMPLES
from att.http.schemas import PageOut

_EXAMPLES: Examples = {
    **USER_EXAMPLES,
    **ACCOUNT_EXAMPLES,
    **ROLE_EXAMPLES,
    **GROUP_EXAMPLES,
    **BROADCAST_EXAMPLES,
    **HISTORY_EXAMPLES,
    **SESSION_EXAMPLES,
    **EVENT_EXAMPLES,
    **PRESENCE_EXAMPLES,
    schemas.DeletedOut: {"deleted": 2},
}


def example_of(shape: type[BaseModel]) -> Any:
    """The example of a shape; of a page or a list of shapes, one with a single item. Raises KeyError without one."""
    if shape in _EXAMPLES:
        return _EXAMPLES[shape]
    if issubclass(shape, RootModel):
        return [example_of(_item(shape.model_fields["root"].annotation))]
    metadata = shape.__pydantic_generic_metadata__
    item = {"items": [example_of(_item(metadata["args"]))]}
    return item | {"next": None} if metadata["origin"] is PageOut else item


def _item(annotation: Any) -> type[BaseModel]:
    """The shape of the items of ``list[shape]``, ``PageOut[shape]``, ``Items[shape]``."""
    found: type[BaseModel] = annotation[0] if isinstance(annotation, tuple) else annotation.__args__[0]
    return found
