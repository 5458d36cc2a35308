"""Added history table

Revision ID: e92a50c7d618
Revises: c40b6e1d9a73
Create Date: 2026-11-22 06:23:37.905512
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "e92a50c7d618"
down_revision = "c40b6e1d9a73"
branch_labels = None
depends_on = None

WATCHED = ("users", "roles", "groups", "members")

# It runs with the rights of its owner, so that whoever may change a row leaves a trace without having rights on
# history; no name in it can be turned by the caller's search_path or by a temporary table. Times in old and new are
# in UTC whatever the caller's time zone.
RECORD_HISTORY = """
CREATE FUNCTION att_record_history() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    hidden CONSTANT text[] = '{password_hash,login_key,name_key,last_name_key,search_text}';
    old_row jsonb;
    new_row jsonb;
    whole jsonb;
    is_rehash CONSTANT boolean = coalesce(current_setting('att.rehash', true), '') = 'on';
    has_new_password boolean = false;
BEGIN
    IF TG_OP <> 'INSERT' THEN old_row = to_jsonb(OLD); END IF;
    IF TG_OP <> 'DELETE' THEN new_row = to_jsonb(NEW); END IF;
    whole = coalesce(old_row, new_row);
    IF TG_OP = 'UPDATE' THEN
        has_new_password = old_row -> 'password_hash' IS DISTINCT FROM new_row -> 'password_hash' AND NOT is_rehash;
    END IF;
    old_row = old_row - hidden;
    new_row = new_row - hidden;
    IF TG_OP = 'UPDATE' THEN
        SELECT coalesce(jsonb_object_agg(o.key, o.value), '{}'), coalesce(jsonb_object_agg(n.key, n.value), '{}')
            INTO old_row, new_row
            FROM jsonb_each(old_row) AS o JOIN jsonb_each(new_row) AS n ON o.key = n.key AND o.value <> n.value;
        IF has_new_password THEN new_row = new_row || '{"password": "changed"}'; END IF;
        IF new_row = '{}' THEN RETURN NULL; END IF;
    END IF;
    EXECUTE format(
        'INSERT INTO %I.history'
        ' (table_name, operation, row_id, user_id, actor_id, session_id, request_id, database_role, old, new)'
        ' VALUES ($1, $2, $3, $4, $5, $6, $7, session_user, $8, $9)',
        TG_TABLE_SCHEMA
    ) USING
        TG_TABLE_NAME,
        TG_OP,
        CASE TG_TABLE_NAME
            WHEN 'members' THEN concat(whole ->> 'group_id', '/', whole ->> 'user_id') ELSE whole ->> 'id'
        END,
        CAST(CASE TG_TABLE_NAME WHEN 'users' THEN whole ->> 'id' WHEN 'members' THEN whole ->> 'user_id' END AS uuid),
        CAST(nullif(current_setting('att.actor_id', true), '') AS uuid),
        CAST(nullif(current_setting('att.session_id', true), '') AS uuid),
        nullif(current_setting('att.request_id', true), ''),
        old_row,
        new_row;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "history",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("row_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("session_id", sa.Uuid(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("database_role", sa.Text(), server_default=sa.text("session_user"), nullable=False),
        sa.Column("old", postgresql.JSONB(), nullable=True),
        sa.Column("new", postgresql.JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_history")),
    )
    op.create_index(op.f("ix_history_at_id"), "history", ["at", "id"])
    op.create_index(op.f("ix_history_row_id_at_id"), "history", ["row_id", "at", "id"])
    op.create_index(op.f("ix_history_user_id_at_id"), "history", ["user_id", "at", "id"])
    op.create_index(op.f("ix_history_actor_id_at_id"), "history", ["actor_id", "at", "id"])
    op.create_index(op.f("ix_history_table_name_at_id"), "history", ["table_name", "at", "id"])
    op.create_index(op.f("ix_history_operation_at_id"), "history", ["operation", "at", "id"])
    op.create_index(op.f("ix_history_table_name_operation_at_id"), "history", ["table_name", "operation", "at", "id"])
    op.execute(RECORD_HISTORY)
    # Whoever could put it on a table of their own would write whatever they like into history, or run code of theirs
    # with the rights of its owner.
    op.execute("REVOKE ALL ON FUNCTION att_record_history() FROM PUBLIC")
    for table in WATCHED:
        op.execute(
            f"CREATE TRIGGER att_record_history AFTER INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION att_record_history()"
        )


def downgrade() -> None:
    for table in WATCHED:
        op.execute(f"DROP TRIGGER att_record_history ON {table}")
    op.execute("DROP FUNCTION att_record_history()")
    op.drop_table("history")
