"""Rows of the route table."""

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from inspect import getdoc
from typing import Any, NamedTuple

from pydantic import BaseModel

from att.core.permissions import Permission, Who
from att.errors import AttError, NoSuchEvent, NoSuchGroup, NoSuchRole, NoSuchSession, NoSuchUser, NotFound
from att.http.middleware import Handler
from att.http.schemas import QueryModel
from att.protocol.messages import SEQ_LIMIT

Examples = Mapping[type[BaseModel], Any]  # an example of each shape, for the documentation

EXAMPLE_ID = "0190d5a4-6c2f-4f0e-9d3a-5b8f2c1e7a60"
OTHER_EXAMPLE_ID = "0190d5a4-7b11-4c55-8a90-1f2e3d4c5b6a"
EXAMPLE_TIME = "2026-11-22T06:20:00Z"
EXAMPLE_EPOCH = "5d1c39d1a3f04b5f8e2f6c0b7a914e22"


class PathParameter(NamedTuple):
    """A parameter in a path: its documentation, and the error if it names nothing."""

    description: str
    schema: Mapping[str, Any]
    not_found: type[NotFound]


_ID = {"type": "string", "format": "uuid"}
_TEXT = {"type": "string", "minLength": 1}
PATH_PARAMETERS = {
    "user_id": PathParameter("The id of a user, or `me`.", {"anyOf": [_ID, {"const": "me"}]}, NoSuchUser),
    "group": PathParameter("The id or the name of a group.", _TEXT, NoSuchGroup),
    "seq": PathParameter("The seq of an event.", {"type": "integer", "minimum": 1, "maximum": SEQ_LIMIT}, NoSuchEvent),
    "role_id": PathParameter("The id of a role.", _ID, NoSuchRole),
    "session_id": PathParameter("The id of a session.", _ID, NoSuchSession),
    "file": PathParameter("The name of a file.", _TEXT, NotFound),
}


@dataclass(frozen=True, slots=True)
class File:
    """A response that is a file of one of these media types."""

    media_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table. ``who`` may call the route, and ``permission`` allows it to others.

    ``endpoint`` is method and path. ``body`` is one shape or either of two. ``errors`` are the route's own, without
    those that follow from the rest of the row. With ``takes_key`` a request can be repeated safely, by an idempotency
    key. ``section`` is that of the documentation, by default the last fixed part of the path. A GET route answers HEAD,
    too, unless it ``upgrades`` to a WebSocket. If ``checked_by_log``, the transaction that appends or redacts checks
    who may do so. If ``conditional``, the transaction that changes checks the preconditions; what other routes change
    has no version.
    """

    endpoint: str
    handler: Handler
    who: Who
    permission: Permission | None = None
    _: KW_ONLY
    body: type[BaseModel] | tuple[type[BaseModel], type[BaseModel]] | None = None
    query: type[QueryModel] | None = None
    responses: Mapping[int, type[BaseModel] | tuple[type[BaseModel], type[BaseModel]] | File | None]
    is_body_required: bool = True
    takes_key: bool = False
    errors: tuple[type[AttError], ...] = ()
    section: str = ""
    upgrades: bool = False
    checked_by_log: bool = False
    conditional: bool = False

    @property
    def method(self) -> str:
        """HTTP method."""
        return self.endpoint.partition(" ")[0]

    @property
    def path(self) -> str:
        """Path, with its parameters in braces."""
        return self.endpoint.partition(" ")[2]

    @property
    def summary(self) -> str:
        """First sentence of the handler's docstring."""
        return re.split(r"\.(?:\s|$)", getdoc(self.handler) or "")[0]

    @property
    def tag(self) -> str:
        """Name of the section in the documentation."""
        fixed = [part for part in self.path.split("/") if part and "{" not in part]
        return self.section or "".join(fixed[-1:])

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters in the path."""
        return re.findall(r"{(\w+)}", self.path)
