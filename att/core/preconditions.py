"""Versions of resources, and preconditions on them: If-Match and If-None-Match (RFC 9110, section 13). No I/O."""

import hashlib
import json
from typing import Any, NamedTuple

from att.errors import PreconditionFailed

ANY = "*"


def version_of(fields: tuple[Any, ...]) -> str:
    """Return a hash of all fields of a resource."""
    return hashlib.sha256(json.dumps(fields, default=str).encode()).hexdigest()[:32]


class Preconditions(NamedTuple):
    """The entity tags of each header, with their quotes, or ``ANY``; None without the header.

    If-Match compares strongly, so ``if_match`` has no weak tags; those in ``if_none_match`` have lost their ``W/``.
    """

    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None

    def is_outdated(self, version: str | None, *, exists: bool = True) -> bool:
        """Return True if If-Match is false for a resource with this version; None has no version."""
        return self.if_match is not None and self.if_match.isdisjoint(_tags(version, exists=exists))

    def is_known(self, version: str | None, *, exists: bool = True) -> bool:
        """Return True if If-None-Match is false for a resource with this version; None has no version."""
        return self.if_none_match is not None and not self.if_none_match.isdisjoint(_tags(version, exists=exists))

    def check(self, version: str | None, *, exists: bool = True) -> None:
        """Raise PreconditionFailed unless the resource may be changed."""
        if self.is_outdated(version, exists=exists):
            raise PreconditionFailed
        if self.is_known(version, exists=exists):
            raise PreconditionFailed("The resource exists already, which If-None-Match forbids.")


def _tags(version: str | None, *, exists: bool) -> set[str]:
    if not exists:
        return set()
    return {ANY} if version is None else {ANY, f'"{version}"'}
