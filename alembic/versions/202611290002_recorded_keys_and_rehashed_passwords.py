"""Recorded keys and rehashed passwords in the history

Servers of 0.2.0 run on; what they rehash is recorded, too. Nothing is left to contract.

Revision ID: b4c71f0e92d5
Revises: 8f2b6d4e1a90
Create Date: 2026-11-29 00:02:52.664810
"""

from alembic import context, op

revision = "b4c71f0e92d5"
down_revision = "8f2b6d4e1a90"
branch_labels = None
depends_on = None

# As before, but that no change of a password or of a key is left out: by the key a user, a role or a group is found.
# The actor is a claim of the database role. It is believed of roles that may write sessions, since these can sign in
# as anybody; another role could only put its changes down to somebody else.
RECORD_HISTORY = """
CREATE OR REPLACE FUNCTION att_record_history() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    hidden text[] = '{password_hash,last_name_key,search_text,seq}';
    named CONSTANT text = CASE TG_TABLE_NAME WHEN 'users' THEN 'login' ELSE 'name' END;
    old_row jsonb;
    new_row jsonb;
    whole jsonb;
    password jsonb = '{}';
    is_server CONSTANT boolean = coalesce(has_table_privilege(
        coalesce(nullif(current_setting('role'), 'none'), session_user),
        to_regclass(format('%I.sessions', TG_TABLE_SCHEMA)),
        'INSERT'
    ), false);
BEGIN
    IF TG_OP <> 'INSERT' THEN old_row = to_jsonb(OLD); END IF;
    IF TG_OP <> 'DELETE' THEN new_row = to_jsonb(NEW); END IF;
    whole = coalesce(old_row, new_row);
    IF TG_OP = 'UPDATE' AND old_row -> 'password_hash' IS DISTINCT FROM new_row -> 'password_hash' THEN
        password = jsonb_build_object('password', CASE
            WHEN current_setting('att.rehash', true) = 'on'
                AND old_row ->> 'password_hash' IS NOT NULL AND new_row ->> 'password_hash' IS NOT NULL
                THEN 'rehashed'
            ELSE 'changed'
        END);
    END IF;
    -- Nearly every key is its name in lower case, and need not be shown.
    IF coalesce(old_row ->> (named || '_key') = lower((old_row ->> named) COLLATE "C"), true)
        AND coalesce(new_row ->> (named || '_key') = lower((new_row ->> named) COLLATE "C"), true)
    THEN
        hidden = hidden || (named || '_key');
    END IF;
    old_row = old_row - hidden;
    new_row = new_row - hidden;
    IF TG_OP = 'UPDATE' THEN
        SELECT coalesce(jsonb_object_agg(o.key, o.value), '{}'), coalesce(jsonb_object_agg(n.key, n.value), '{}')
            INTO old_row, new_row
            FROM jsonb_each(old_row) AS o JOIN jsonb_each(new_row) AS n ON o.key = n.key AND o.value <> n.value;
        new_row = new_row || password;
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
        CASE WHEN is_server THEN CAST(nullif(current_setting('att.actor_id', true), '') AS uuid) END,
        CASE WHEN is_server THEN CAST(nullif(current_setting('att.session_id', true), '') AS uuid) END,
        CASE WHEN is_server THEN nullif(current_setting('att.request_id', true), '') END,
        old_row,
        new_row;
    RETURN NULL;
END
$$
"""

# As before, but that the actor is believed of the same roles, since a server removes the members later.
PLAN_REMOVAL = """
CREATE FUNCTION att_plan_removal(kind text, ids uuid[], seq bigint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO @schema.removals (id, kind, seq, actor_id, session_id, request_id)
    SELECT i.id, att_plan_removal.kind, att_plan_removal.seq,
        CASE WHEN s.is_server THEN CAST(nullif(current_setting('att.actor_id', true), '') AS uuid) END,
        CASE WHEN s.is_server THEN CAST(nullif(current_setting('att.session_id', true), '') AS uuid) END,
        CASE WHEN s.is_server THEN nullif(current_setting('att.request_id', true), '') END
    FROM unnest(att_plan_removal.ids) AS i (id), has_table_privilege(
        coalesce(nullif(current_setting('role'), 'none'), session_user), $name$@schema.sessions$name$, 'INSERT'
    ) AS s (is_server)
    ON CONFLICT DO NOTHING
$$
"""


def upgrade() -> None:
    op.execute(RECORD_HISTORY)
    _replace(PLAN_REMOVAL)


def downgrade() -> None:
    _replace(context.script.get_revision("7c1e5d90ab34").module.PLAN_REMOVAL)
    before = context.script.get_revision("3d96b1f07c4e").module
    op.execute(before.RECORD_HISTORY.replace("HIDDEN", f"{before.HIDDEN},seq"))


def _replace(source: str) -> None:
    source = source.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    op.execute(
        f"DO $migration$ BEGIN EXECUTE replace($function${source}$function$,"
        " '@schema', quote_ident(current_schema())); END $migration$"
    )
