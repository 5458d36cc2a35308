"""Refused another message with the same key

Revision ID: 94c6d2b7e0a5
Revises: b4c71f0e92d5
Create Date: 2026-11-28 23:25:41.530276

Servers of 0.2.0 run on this: they do not call the function that changes.
"""

from alembic import op

revision = "94c6d2b7e0a5"
down_revision = "b4c71f0e92d5"
branch_labels = None
depends_on = None

REPEATED = "    IF FOUND THEN RETURN first; END IF;\n"
# As over HTTP, the key belongs to these bytes.
COMPARED = """\
    IF EXISTS (
        SELECT FROM @schema.events AS e
        WHERE e.group_id = att_broadcast.group_id AND e.seq = first
            AND CAST(e.body AS text) <> CAST(att_broadcast.body AS text)
    ) THEN
        RAISE EXCEPTION 'the key belongs to another message of the group' USING ERRCODE = 'invalid_parameter_value';
    END IF;
"""


def upgrade() -> None:
    _replace(REPEATED, COMPARED + REPEATED)


def downgrade() -> None:
    _replace(COMPARED + REPEATED, REPEATED)


def _replace(old: str, new: str) -> None:
    """Replace a part of the function as it is in the database."""
    op.execute(f"""
        DO $migration$
        DECLARE
            old CONSTANT text = replace($part${old}$part$, '@schema', quote_ident(current_schema()));
            new CONSTANT text = replace($part${new}$part$, '@schema', quote_ident(current_schema()));
            source CONSTANT text = pg_get_functiondef(CAST('att_broadcast(uuid, json, text)' AS regprocedure));
        BEGIN
            ASSERT position(old IN source) > 0, 'att_broadcast is not as the migrations have left it';
            EXECUTE replace(source, old, new);
        END
        $migration$
    """)
