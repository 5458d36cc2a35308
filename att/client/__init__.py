"""The Python client: log in, broadcast, and listen with automatic reconnection and resume."""

from att.client.client import (
    Ack,
    Backoff,
    Changed,
    Client,
    EphemeralMessage,
    Event,
    Gap,
    Joined,
    Left,
    Message,
    Online,
    Profile,
    Redacted,
    Rewind,
    RoleChanged,
)

__all__ = [
    "Ack",
    "Backoff",
    "Changed",
    "Client",
    "EphemeralMessage",
    "Event",
    "Gap",
    "Joined",
    "Left",
    "Message",
    "Online",
    "Profile",
    "Redacted",
    "Rewind",
    "RoleChanged",
]
