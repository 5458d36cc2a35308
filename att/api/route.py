"""A route: what it serves, and to whom."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from att.core.permissions import Permission, Who
from att.errors import AttError
from att.http.middleware import Handler
from att.http.schemas import QueryModel

Examples = Mapping[type[BaseModel], Any]  # an example of each shape, as the documentation shows it

EXAMPLE_ID = "0190d5a4-6c2f-4f0e-9d3a-5b8f2c1e7a60"
OTHER_EXAMPLE_ID = "0190d5a4-7b11-4c55-8a90-1f2e3d4c5b6a"
EXAMPLE_TIME = "2026-11-22T06:20:00Z"


@dataclass(frozen=True, slots=True)
class File:
    """An answer that is no shape of ours, of one of these media types."""

    media_types: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What goes in and out. ``body`` is one shape or either of two; ``errors`` are those that are a route's own.

    A request that ``takes_key`` can be sent again safely, by a key in its header. Errors that follow from the rest (who
    may, a body, a path) are not repeated here.
    """

    body: type[BaseModel] | tuple[type[BaseModel], type[BaseModel]] | None = None
    query: type[QueryModel] | None = None
    answers: Mapping[int, type[BaseModel] | tuple[type[BaseModel], type[BaseModel]] | File | None]
    is_body_required: bool = True
    takes_key: bool = False
    errors: tuple[type[AttError], ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table: whom it is open to, and the permission that opens it to others.

    A GET route answers HEAD as well, unless it ``upgrades`` to a WebSocket. Who may post is ``settled_by_log``, in the
    very transaction that appends.
    """

    method: str
    path: str
    handler: Handler
    who: Who
    summary: str
    shapes: Shapes
    permission: Permission | None = None
    upgrades: bool = field(default=False, kw_only=True)
    settled_by_log: bool = field(default=False, kw_only=True)
