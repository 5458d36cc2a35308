"""Added read markers

Revision ID: e2b7c4d19f03
Revises: c4e81a90d7f2
Create Date: 2026-11-29 02:40:12.552901

Servers of 0.2.0 run on it: they neither read nor write the table. A later release may contract nothing of it.
"""

import sqlalchemy as sa
from alembic import op

revision = "e2b7c4d19f03"
down_revision = "c4e81a90d7f2"
branch_labels = None
depends_on = None

# Counts the messages of others that the member may read above a seq: up to 100, among the newest 1,000 events above it.
# A member of a group that shows not all reads what was logged from a joining to the leaving after it.
UNREAD = """
CREATE FUNCTION att_unread(group_id uuid, user_id uuid, after bigint, head bigint, reads_all boolean) RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    since bigint = 0;
    lowest bigint = att_unread.after;
BEGIN
    IF att_unread.after >= att_unread.head THEN
        RETURN 0;
    END IF;
    IF NOT att_unread.reads_all THEN
        since = coalesce((
            SELECT e.seq FROM @schema.events AS e
            WHERE e.actor_id = att_unread.user_id AND e.group_id = att_unread.group_id AND e.kind <> 'message'
                AND e.kind = 'joined'
            ORDER BY e.seq DESC LIMIT 1
        ), 0);
        IF since > lowest AND NOT EXISTS (
            SELECT FROM @schema.events AS e
            WHERE e.actor_id = att_unread.user_id AND e.group_id = att_unread.group_id AND e.kind <> 'message'
                AND e.seq > lowest AND e.seq < since
        ) THEN
            lowest = since;
        END IF;
    END IF;
    lowest = greatest(lowest, att_unread.head - 1000);
    RETURN (
        SELECT count(*) FROM (
            SELECT FROM @schema.events AS e
            WHERE e.group_id = att_unread.group_id AND e.seq > lowest AND e.seq <= att_unread.head
                AND e.kind = 'message' AND e.actor_id IS DISTINCT FROM att_unread.user_id
                AND (pg_column_size(e.body) > 8 OR CAST(e.body AS text) <> 'null')
                AND (e.seq > since OR (
                    SELECT n.kind = 'left' FROM @schema.events AS n
                    WHERE n.actor_id = att_unread.user_id AND n.group_id = att_unread.group_id AND n.kind <> 'message'
                        AND n.seq > e.seq
                    ORDER BY n.seq LIMIT 1
                ))
            ORDER BY e.seq DESC LIMIT 100
        ) AS c
    );
END
$$
"""
# With the rights of its owner, since servers that do not know the table may run as a role without rights on it.
FORGET = """
CREATE FUNCTION att_forget_read_markers() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
BEGIN
    IF TG_TABLE_NAME = 'users' THEN
        DELETE FROM @schema.read_markers AS r USING old_rows AS o WHERE r.user_id = o.id;
    ELSE
        DELETE FROM @schema.read_markers AS r USING old_rows AS o WHERE r.group_id = o.id;
    END IF;
    RETURN NULL;
END
$$
"""
# A role that may add users may do what a server needs besides.
GRANT = """
DO $migration$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END
        FROM pg_class AS c CROSS JOIN aclexplode(c.relacl) AS r
        WHERE c.oid = CAST('users' AS regclass) AND r.privilege_type = 'INSERT' AND r.grantee <> c.relowner
    LOOP
        EXECUTE 'GRANT SELECT, INSERT, UPDATE ON read_markers TO ' || grantee;
    END LOOP;
END
$migration$
"""


def upgrade() -> None:
    op.create_table(
        "read_markers",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "group_id", name=op.f("pk_read_markers")),
    )
    op.create_index(op.f("ix_read_markers_group_id"), "read_markers", ["group_id"])
    op.execute(GRANT)
    for function in (UNREAD, FORGET):
        op.execute(
            f"DO $migration$ BEGIN EXECUTE replace($function${function}$function$,"
            " '@schema', quote_ident(current_schema())); END $migration$"
        )
    op.execute("REVOKE ALL ON FUNCTION att_forget_read_markers() FROM PUBLIC")
    for table in ("users", "groups"):
        op.execute(
            f"CREATE TRIGGER att_forget_read_markers AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows"
            " FOR EACH STATEMENT EXECUTE FUNCTION att_forget_read_markers()"
        )


def downgrade() -> None:
    for table in ("users", "groups"):
        op.execute(f"DROP TRIGGER att_forget_read_markers ON {table}")
    op.execute("DROP FUNCTION att_forget_read_markers()")
    op.execute("DROP FUNCTION att_unread(uuid, uuid, bigint, bigint, boolean)")
    op.drop_table("read_markers")
