"""Removed the members of large groups, and of users in many groups, in batches

Revision ID: 7c1e5d90ab34
Revises: 7be41d02c9a6
Create Date: 2026-11-28 23:00:12.418305

Servers of 0.2.0 run on it: their deletions are those of the triggers. A later release may contract nothing of it.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "7c1e5d90ab34"
down_revision = "7be41d02c9a6"
branch_labels = None
depends_on = None

# In place of foreign keys, whose cascades delete everything in one transaction: like these it locks the groups and
# users that new members refer to, and its errors have the names of these. The plans do not depend on how large the
# tables were when they were made.
CHECK_MEMBERS = """
CREATE FUNCTION att_check_members() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    group_ids uuid[];
    user_ids uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(DISTINCT n.group_id), array_agg(DISTINCT n.user_id)
            INTO group_ids, user_ids FROM new_rows AS n;
    ELSE
        SELECT array_agg(DISTINCT n.group_id), array_agg(DISTINCT n.user_id)
            INTO group_ids, user_ids FROM (
            SELECT group_id, user_id FROM new_rows EXCEPT SELECT group_id, user_id FROM old_rows
        ) AS n;
    END IF;
    IF cardinality(group_ids) > cardinality(
        ARRAY(SELECT g.id FROM @schema.groups AS g WHERE g.id = ANY (group_ids) ORDER BY g.id FOR KEY SHARE)
    ) THEN
        RAISE EXCEPTION 'a group that members are added to does not exist'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'fk_members_group_id_groups';
    END IF;
    IF cardinality(user_ids) > cardinality(
        ARRAY(SELECT u.id FROM @schema.users AS u WHERE u.id = ANY (user_ids) ORDER BY u.id FOR KEY SHARE)
    ) THEN
        RAISE EXCEPTION 'a user who is added to a group does not exist'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'fk_members_user_id_users';
    END IF;
    RETURN NULL;
END
$$
"""
KEEP_ID = """
CREATE FUNCTION att_keep_id() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM @schema.members AS m WHERE m.group_id = OLD.id OR m.user_id = OLD.id) THEN
        RAISE EXCEPTION 'members refer to the id %', OLD.id USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END
$$
"""

# Up to a thousand members leave in the transaction that deletes the group, each by an event. More leave by one event,
# whose user has the group's own id; att_remove_members deletes their rows later, and writes the others.
LOG_DELETION = """
CREATE FUNCTION att_log_deletion() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    gone bigint = 1;
BEGIN
    IF (SELECT count(*) FROM (SELECT FROM @schema.members AS m WHERE m.group_id = OLD.id LIMIT 1001) AS m) > 1000 THEN
        INSERT INTO @schema.events (group_id, seq, kind, actor_id) VALUES (OLD.id, OLD.seq + 1, 'left', OLD.id);
        PERFORM @schema.att_plan_removal('group', ARRAY[OLD.id], OLD.seq + 1);
    ELSE
        INSERT INTO @schema.events (group_id, seq, kind, actor_id)
            SELECT OLD.id, OLD.seq + row_number() OVER (ORDER BY m.user_id), 'left', m.user_id
            FROM @schema.members AS m WHERE m.group_id = OLD.id;
        GET DIAGNOSTICS gone = ROW_COUNT;
        DELETE FROM @schema.members AS m WHERE m.group_id = OLD.id;
    END IF;
    IF gone > 0 THEN
        PERFORM pg_notify(
            'att',
            CAST(jsonb_build_object('groups', jsonb_build_object(OLD.id, OLD.seq + gone)) AS text)
        );
    END IF;
    RETURN NULL;
END
$$
"""
# Likewise for all users of one statement. Not every membership that is committed is seen by a transaction with one
# snapshot for all its statements, so there the rest is always left to att_remove_members.
LEAVE_GROUPS = """
CREATE FUNCTION att_leave_groups() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    user_ids uuid[] = ARRAY(SELECT o.id FROM old_rows AS o);
BEGIN
    IF (SELECT count(*) FROM (SELECT FROM @schema.members AS m WHERE m.user_id = ANY (user_ids) LIMIT 1001) AS m) > 1000
        OR current_setting('transaction_isolation') <> 'read committed'
    THEN
        PERFORM @schema.att_plan_removal('user', user_ids, NULL);
    ELSE
        DELETE FROM @schema.members AS m WHERE m.user_id = ANY (user_ids);
    END IF;
    RETURN NULL;
END
$$
"""
PLAN_REMOVAL = """
CREATE FUNCTION att_plan_removal(kind text, ids uuid[], seq bigint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO @schema.removals (id, kind, seq, actor_id, session_id, request_id)
    SELECT i.id, att_plan_removal.kind, att_plan_removal.seq,
        CAST(nullif(current_setting('att.actor_id', true), '') AS uuid),
        CAST(nullif(current_setting('att.session_id', true), '') AS uuid),
        nullif(current_setting('att.request_id', true), '')
    FROM unnest(att_plan_removal.ids) AS i (id)
    ON CONFLICT DO NOTHING
$$
"""

# Removes a batch of the members of a deleted group, or of the memberships of a deleted user, and returns their number:
# 0 when none is left, or when they are locked. A batch that is not full is the last one. The members of a group come in
# the order of their ids; last_id is that of the last one removed, so that no batch reads the entries of the index that
# earlier ones have left behind. Of a user's groups those are skipped that others have locked: broadcasts to all groups
# of the batch would wait.
REMOVE_MEMBERS = """
CREATE FUNCTION att_remove_members(removal_id uuid, batch integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '500ms'
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    removal @schema.removals;
    found uuid[];
    free uuid[];
    removed integer;
BEGIN
    SELECT * INTO removal FROM @schema.removals AS r WHERE r.id = removal_id FOR UPDATE SKIP LOCKED;
    IF removal IS NULL THEN RETURN 0; END IF;
    PERFORM set_config('att.actor_id', coalesce(CAST(removal.actor_id AS text), ''), true),
        set_config('att.session_id', coalesce(CAST(removal.session_id AS text), ''), true),
        set_config('att.request_id', coalesce(removal.request_id, ''), true);
    IF removal.kind = 'group' THEN
        found = ARRAY(
            SELECT m.user_id FROM @schema.members AS m
            WHERE m.group_id = removal.id AND m.user_id > removal.last_id ORDER BY m.user_id LIMIT batch
        );
        WITH gone AS (
            DELETE FROM @schema.members AS m WHERE m.group_id = removal.id AND m.user_id = ANY (found)
            RETURNING m.user_id
        )
        INSERT INTO @schema.events (group_id, seq, kind, actor_id)
            SELECT removal.id, removal.seq + row_number() OVER (ORDER BY g.user_id), 'left', g.user_id FROM gone AS g;
        GET DIAGNOSTICS removed = ROW_COUNT;
        UPDATE @schema.removals AS r SET seq = r.seq + removed, last_id = found[cardinality(found)]
            WHERE r.id = removal.id AND cardinality(found) > 0;
    ELSE
        found = ARRAY(
            SELECT m.group_id FROM @schema.members AS m
            WHERE m.user_id = removal.id ORDER BY m.joined_at, m.group_id LIMIT batch
        );
        free = ARRAY(
            SELECT g.id FROM @schema.groups AS g WHERE g.id = ANY (found) ORDER BY g.id FOR NO KEY UPDATE SKIP LOCKED
        );
        DELETE FROM @schema.members AS m WHERE m.user_id = removal.id AND m.group_id = ANY (found) AND (
            m.group_id = ANY (free) OR NOT EXISTS (SELECT FROM @schema.groups AS g WHERE g.id = m.group_id)
        );
        GET DIAGNOSTICS removed = ROW_COUNT;
    END IF;
    IF cardinality(found) < batch AND removed = cardinality(found) THEN
        DELETE FROM @schema.removals AS r WHERE r.id = removal.id;
    END IF;
    RETURN removed;
END
$$
"""

FUNCTIONS = {
    "att_check_members()": CHECK_MEMBERS,
    "att_keep_id()": KEEP_ID,
    "att_plan_removal(text, uuid[], bigint)": PLAN_REMOVAL,
    "att_leave_groups()": LEAVE_GROUPS,
    "att_remove_members(uuid, integer)": REMOVE_MEMBERS,
}
TRIGGERS = {
    ("att_check_joined", "members"): "AFTER INSERT ON members REFERENCING NEW TABLE AS new_rows"
    " FOR EACH STATEMENT EXECUTE FUNCTION att_check_members()",
    ("att_check_moved", "members"): "AFTER UPDATE ON members REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"
    " FOR EACH STATEMENT EXECUTE FUNCTION att_check_members()",
    ("att_remove_memberships", "users"): "AFTER DELETE ON users REFERENCING OLD TABLE AS old_rows"
    " FOR EACH STATEMENT EXECUTE FUNCTION att_leave_groups()",
    ("att_log_deletion", "groups"): "AFTER DELETE ON groups FOR EACH ROW EXECUTE FUNCTION att_log_deletion()",
} | {
    ("att_keep_id", table): f"AFTER UPDATE OF id ON {table} FOR EACH ROW WHEN (OLD.id <> NEW.id)"
    " EXECUTE FUNCTION att_keep_id()"
    for table in ("users", "groups")
}
FOREIGN_KEYS = {"group_id": "groups", "user_id": "users"}


def upgrade() -> None:
    op.create_table(
        "removals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("last_id", sa.Uuid(), server_default=sa.text(f"'{'0' * 32}'"), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("session_id", sa.Uuid(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('group', 'user')", name=op.f("ck_removals_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_removals")),
    )
    for signature, source in FUNCTIONS.items():
        _execute(source)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    _execute(LOG_DELETION.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute("DROP TRIGGER att_log_deletion ON groups")
    for (name, _), rest in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {rest}")
    for column, table in FOREIGN_KEYS.items():
        op.drop_constraint(op.f(f"fk_members_{column}_{table}"), "members")


def downgrade() -> None:
    op.execute("DELETE FROM members AS m WHERE NOT EXISTS (SELECT FROM groups AS g WHERE g.id = m.group_id)")
    op.execute("DELETE FROM members AS m WHERE NOT EXISTS (SELECT FROM users AS u WHERE u.id = m.user_id)")
    for column, table in FOREIGN_KEYS.items():
        name = op.f(f"fk_members_{column}_{table}")
        op.create_foreign_key(name, "members", table, [column], ["id"], ondelete="CASCADE")
    for name, table in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON {table}")
    source = context.script.get_revision("3d96b1f07c4e").module.LOG_DELETION
    _execute(source.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute(
        "CREATE TRIGGER att_log_deletion BEFORE DELETE ON groups FOR EACH ROW EXECUTE FUNCTION att_log_deletion()"
    )
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    op.drop_table("removals")


def _execute(source: str) -> None:
    op.execute(
        f"DO $migration$ BEGIN EXECUTE replace($function${source}$function$,"
        " '@schema', quote_ident(current_schema())); END $migration$"
    )
