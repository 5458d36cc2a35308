"""Rights that a server needs in the database. Its role need not own the tables, and then cannot change the history."""

from collections.abc import Mapping
from types import MappingProxyType

from att.db.schema import metadata

# Rights on tables that our statements need. Triggers and functions have those of their owner.
RIGHTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    dict.fromkeys(metadata.tables.keys() - {"epochs", "forks"}, ("SELECT", "INSERT", "UPDATE", "DELETE"))
    | {
        "events": ("SELECT", "DELETE"),
        "read_markers": ("SELECT", "INSERT", "UPDATE"),
        "skeletons": ("SELECT", "INSERT"),
    }
    | dict.fromkeys(("history", "outside_senders", "removals", "signing_keys", "alembic_version"), ("SELECT",))
)
FUNCTIONS = (
    "att_append",
    "att_current_epoch",
    "att_epoch",
    "att_grams",
    "att_held",
    "att_redact",
    "att_remove_members",
    "att_trim_epochs",
    "att_unread",
)


def grants(schema: str, role: str) -> list[str]:
    """Return the statements by which the owner lets a role run servers. Both names are quoted identifiers."""
    return [
        f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        *(f"GRANT {', '.join(rights)} ON {table} TO {role}" for table, rights in RIGHTS.items()),
        *(f"GRANT EXECUTE ON FUNCTION {function} TO {role}" for function in FUNCTIONS),
    ]
