"""One example of each shape, as the documentation shows it."""

from typing import Any

from pydantic import BaseModel, RootModel

from att import payloads

_ID = "0190d5a4-6c2f-4f0e-9d3a-5b8f2c1e7a60"
_OTHER_ID = "0190d5a4-7b11-4c55-8a90-1f2e3d4c5b6a"
_AT = "2026-11-22T06:20:00Z"
_PERSON = {"first_name": "Ann", "last_name": "Lee", "birth_date": "1990-05-17"}
_RULES = {"join": "invite", "post": "members", "retention": 1000}

EXAMPLES: dict[type[BaseModel], Any] = {
    payloads.NewAccount: {"login": "ann", "password": "correct horse"},
    payloads.Credentials: {"login": "ann", "password": "correct horse"},
    payloads.NewUser: {"login": "ann", "password": "correct horse", **_PERSON, "role": "User", "active": True},
    payloads.UserChange: {"first_name": "Anna", "birth_date": None},
    payloads.NamedUserChange: {"id": _ID, "active": False},
    payloads.NewRole: {"name": "Support", "permissions": ["users.read"]},
    payloads.RoleChange: {"permissions": ["users.read", "history.read"]},
    payloads.NamedRoleChange: {"id": _ID, "name": "Help desk"},
    payloads.NewGroup: {"name": "tea", **_RULES},
    payloads.GroupChange: {"join": "open"},
    payloads.MemberChange: {"role": "owner"},
    payloads.NewMembers: {"user_ids": [_ID, _OTHER_ID]},
    payloads.Message: {"text": "The tea is ready."},
    payloads.SignedIn: {"user_id": _ID, "token": "h2Zt9…", "expires_at": _AT},
    payloads.User: {"id": _ID, "login": "ann", **_PERSON, "registered_at": _AT, "role": "User", "active": True},
    payloads.Role: {"id": _ID, "name": "Support", "permissions": ["users.read"]},
    payloads.Change: {
        "id": 7,
        "at": _AT,
        "table": "users",
        "operation": "UPDATE",
        "row": _ID,
        "actor_id": _OTHER_ID,
        "session_id": "0190d5a4-9e77-4b1d-8c02-6d5e4f3a2b1c",
        "request_id": "3f1c8f0f5a9e4a0e9f6b7c8d9e0f1a2b",
        "database_role": "att",
        "old": {"active": True},
        "new": {"active": False},
    },
    payloads.Session: {
        "id": _ID,
        "created_at": _AT,
        "last_seen_at": _AT,
        "expires_at": _AT,
        "address": "192.0.2.7",
        "user_agent": "Mozilla/5.0",
        "current": True,
        "sockets": 1,
    },
    payloads.Group: {"id": _ID, "name": "tea", **_RULES, "created_at": _AT, "role": "owner"},
    payloads.Member: {"user_id": _ID, "login": "ann", "role": "member", "joined_at": _AT},
    payloads.Event: {"seq": 12, "kind": "message", "user_id": _ID, "at": _AT, "data": {"text": "The tea is ready."}},
    payloads.Present: {"user_id": _ID, "login": "ann", "since": _AT, "sockets": 2},
    payloads.Presence: {"user_id": _ID, "since": _AT, "sockets": 2},
    payloads.Deleted: {"deleted": 2},
    payloads.Delivery: {"group": _ID, "seq": 42, "at": _AT, "delivered": 3, "dropped": 0},
}


def example_of(shape: type[BaseModel]) -> Any:
    """The example of a shape; of a page or a list of shapes, one with a single item. Raises KeyError without one."""
    if shape in EXAMPLES:
        return EXAMPLES[shape]
    if issubclass(shape, RootModel):
        return [example_of(_item(shape.model_fields["root"].annotation))]
    metadata = shape.__pydantic_generic_metadata__
    item = {"items": [example_of(_item(metadata["args"]))]}
    return item | {"next": None} if metadata["origin"] is payloads.Page else item


def _item(annotation: Any) -> type[BaseModel]:
    """The shape of the items of ``list[shape]``, ``Page[shape]``, ``Items[shape]``."""
    found: type[BaseModel] = annotation[0] if isinstance(annotation, tuple) else annotation.__args__[0]
    return found
