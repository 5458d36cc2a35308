"""Told announcements of schemas apart

Revision ID: 6e20b8f4d1a7
Revises: 1f7ac3d95e08
Create Date: 2026-11-29 03:06:33.702145

Servers of 0.2.0 run on this: they do not look at the schema, and announce without one, which is heard in all schemas.
A later release may ignore announcements without a schema.
"""

from alembic import op

revision = "6e20b8f4d1a7"
down_revision = "1f7ac3d95e08"
branch_labels = None
depends_on = None

# All schemas of a database share its channels. The payload is an object with a member at least, and stays nearly as
# long. Everyone may send on a channel, so everyone may call this.
NOTIFY = """
CREATE FUNCTION att_notify(payload text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_notify('att', '{"schema":@schema,' || substr(payload, 2))
$$
"""
# In the functions that announce
UNTOLD = r"pg_notify\(\s*'att',"
TOLD = "@schema.att_notify("


def upgrade() -> None:
    op.execute(f"""
        DO $migration$ BEGIN
            EXECUTE replace($function${NOTIFY}$function$, '@schema', replace(
                CAST(to_json(CAST(current_schema() AS text)) AS text), '''', ''''''
            ));
        END $migration$
    """)
    _replace(UNTOLD, TOLD)


def downgrade() -> None:
    _replace(r'("[^"]+"|\w+)\.att_notify\(', "pg_notify('att',")
    op.execute("DROP FUNCTION att_notify(text)")


def _replace(old: str, new: str) -> None:
    """Replace a pattern in all functions of ours."""
    op.execute(f"""
        DO $migration$
        DECLARE
            source text;
        BEGIN
            FOR source IN
                SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p
                WHERE p.pronamespace = CAST(quote_ident(current_schema()) AS regnamespace)
                    AND starts_with(p.proname, 'att_') AND p.proname <> 'att_notify' AND p.prosrc ~ $part${old}$part$
            LOOP
                EXECUTE replace(
                    regexp_replace(source, $part${old}$part$, $part${new}$part$, 'g'),
                    '@schema', quote_ident(current_schema())
                );
            END LOOP;
        END
        $migration$
    """)  # noqa: S608 - of constants
