"""Messages for the present listeners of a group, which no log keeps."""

from typing import NamedTuple
from uuid import UUID


class Ephemeral(NamedTuple):
    """An ephemeral message; ``body`` is a JSON object.

    By the event ``seq`` of the group's log the sender was permitted to post. ``head`` is the last event that the
    sender's node knew of: no node delivers the message before it has applied that. Both are of the epoch of the tag.
    """

    epoch_tag: bytes
    group_id: UUID
    user_id: UUID
    seq: int
    head: int
    body: bytes
