"""Settings of a connection that neither a role nor a database may choose (``ALTER ROLE … SET``, ``PGOPTIONS``).

Others are theirs: ``search_path``, ``synchronous_commit``, ``role``, ``default_transaction_read_only``. And
``standard_conforming_strings`` stays as it is, since the driver reads it once, when it connects, to quote texts.
"""

from collections.abc import Mapping
from types import MappingProxyType

STATEMENT_TIMEOUT = "4s"  # of the server's clock: shorter than that of ours, so that the outcome is known
# A server that hangs in a transaction does not keep its locks for ever. A transaction waits for Redis, or a hash.
IDLE_TRANSACTION_TIMEOUT = "30s"

_PINNED: Mapping[str, str] = MappingProxyType(
    {
        # A statement that waits for a lock must then see what was committed meanwhile.
        "default_transaction_isolation": "read committed",
        "session_replication_role": "origin",  # else no trigger writes the log and the history
        "lock_timeout": "0",
        "idle_session_timeout": "0",  # since PostgreSQL 14; pooled and listening connections are idle
        "transaction_timeout": "0",  # since PostgreSQL 17
        "exit_on_error": "off",
        # The meaning of our statements, and the form of values
        "transform_null_equals": "off",
        "gin_fuzzy_search_limit": "0",
        "TimeZone": "UTC",
        "DateStyle": "ISO, MDY",
        "IntervalStyle": "postgres",
        "bytea_output": "hex",
        "extra_float_digits": "1",
    }
)
_SERVING: Mapping[str, str] = MappingProxyType(
    {
        "statement_timeout": STATEMENT_TIMEOUT,
        "idle_in_transaction_session_timeout": IDLE_TRANSACTION_TIMEOUT,
        # Parallel workers and compilation start too slowly for our statements, which read at most a page.
        "max_parallel_workers_per_gather": "0",
        "jit": "off",
        # Prepared statements take arrays of very different length, and are to be planned once.
        "plan_cache_mode": "force_generic_plan",
    }
)
_MIGRATING: Mapping[str, str] = MappingProxyType({"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"})


def _pin(settings: Mapping[str, str]) -> str:
    # Only what differs is set: a role may lack the right to set session_replication_role. Unknown ones are NULL.
    rows = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    return (
        f"SELECT set_config(p.name, p.value, false) FROM (VALUES {rows}) AS p (name, value)"  # noqa: S608 - constants
        " WHERE current_setting(p.name, true) <> p.value"
    )


PIN_FOR_SERVING = _pin({**_PINNED, **_SERVING})
PIN_FOR_MIGRATING = _pin({**_PINNED, **_MIGRATING})
