"""Added event table

Revision ID: 3d96b1f07c4e
Revises: e92a50c7d618
Create Date: 2026-11-22 08:15:26.318840
"""

import sqlalchemy as sa
from alembic import op

revision = "3d96b1f07c4e"
down_revision = "e92a50c7d618"
branch_labels = None
depends_on = None

# Each function runs with the rights of its owner, so that whoever may change members leaves a trace without having
# rights on events; no name in it can be turned by the caller's search_path. @schema stands for where the tables are.
#
# Locks are taken in one order everywhere: groups by their ids. A statement that follows a lock has a snapshot of its
# own, and so sees what was committed while the lock was waited for. The lock is held to the commit; so the order of
# commits in a group is the order of seq.

# The plans do not depend on how many items there are, nor on how small the tables were when they were made. What an
# item may do is told by scalar subqueries, which are looked up in an index one by one.
APPEND = """
CREATE FUNCTION att_append(group_ids uuid[], name_keys text[], actor_ids uuid[], bodies text[], keys text[])
RETURNS TABLE (
    item integer, refusal text, group_id uuid, name text, seq bigint, at timestamp with time zone, is_repeat boolean
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '500ms'
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    locked uuid[] = group_ids;
    moment timestamp with time zone;
BEGIN
    IF array_position(group_ids, NULL) IS NOT NULL THEN
        locked = locked || ARRAY(SELECT g.id FROM @schema.groups AS g WHERE g.name_key = ANY (name_keys));
    END IF;
    locked = ARRAY(SELECT g.id FROM @schema.groups AS g WHERE g.id = ANY (locked) ORDER BY g.id FOR NO KEY UPDATE);
    moment = clock_timestamp();
    RETURN QUERY
    WITH drafts AS (
        SELECT i.*, g.id AS found_id, g.name, g.post, g.seq AS head
        FROM unnest(group_ids, name_keys, actor_ids, bodies, keys)
            WITH ORDINALITY AS i (group_id, name_key, actor_id, body, key, item)
        LEFT JOIN LATERAL (
            SELECT t.id, t.name, t.post, t.seq FROM @schema.groups AS t WHERE t.id = i.group_id
            UNION ALL
            SELECT t.id, t.name, t.post, t.seq FROM @schema.groups AS t
            WHERE i.group_id IS NULL AND t.name_key = i.name_key
            LIMIT 1
        ) AS g ON g.id = ANY (locked)
    ), judged AS (
        SELECT d.*, e.seq AS first_seq, e.at AS first_at, CASE
            WHEN d.found_id IS NULL THEN 'no such group'
            -- Whoever has sent it is told so, even if they have been removed since.
            WHEN e.actor_id = d.actor_id THEN NULL
            ELSE (
                SELECT CASE
                    WHEN s.role = 'owner' OR s.role = 'member' AND d.post = 'members' THEN NULL
                    WHEN (
                        SELECT r.permissions && '{*,broadcast.any}'
                        FROM @schema.users AS u JOIN @schema.roles AS r ON r.id = u.role_id
                        WHERE u.id = d.actor_id AND u.active
                    ) THEN NULL
                    WHEN s.role IS NULL THEN 'not a member'
                    ELSE 'not an owner'
                END
                FROM (
                    SELECT (
                        SELECT m.role FROM @schema.members AS m
                        WHERE m.group_id = d.found_id AND m.user_id = d.actor_id
                    ) AS role
                    OFFSET 0
                ) AS s
            )
        END AS refusal
        FROM drafts AS d
        LEFT JOIN LATERAL (
            SELECT e.seq, e.at, e.actor_id FROM @schema.events AS e
            WHERE e.group_id = d.found_id AND e.key = d.key
            LIMIT 1
        ) AS e ON true
    ), led AS (
        SELECT j.*, j.refusal IS NULL AND j.first_seq IS NULL AS is_wanted, CASE
            WHEN j.key IS NULL THEN j.item
            ELSE min(j.item) OVER (PARTITION BY j.found_id, j.key, j.refusal IS NULL)
        END AS leader
        FROM judged AS j
    ), numbered AS MATERIALIZED (
        SELECT l.*, l.head + count(*) FILTER (WHERE l.item = l.leader)
            OVER (PARTITION BY l.found_id, l.is_wanted ORDER BY l.leader) AS new_seq
        FROM led AS l
    ), written AS (
        INSERT INTO @schema.events (group_id, seq, kind, actor_id, body, key, at)
        SELECT n.found_id, n.new_seq, 'message', n.actor_id, CAST(n.body AS json), n.key, moment
        FROM numbered AS n WHERE n.is_wanted AND n.item = n.leader
    ), moved AS (
        UPDATE @schema.groups AS g SET seq = h.seq
        FROM (
            SELECT n.found_id, max(n.new_seq) AS seq FROM numbered AS n WHERE n.is_wanted GROUP BY n.found_id
        ) AS h
        WHERE g.id = h.found_id AND g.id = ANY (locked)
    )
    SELECT CAST(n.item AS integer), n.refusal, n.found_id, n.name,
        CASE WHEN n.refusal IS NULL THEN coalesce(n.first_seq, n.new_seq) END,
        CASE WHEN n.refusal IS NULL THEN coalesce(n.first_at, moment) END,
        n.refusal IS NULL AND NOT (n.is_wanted AND n.item = n.leader)
    FROM numbered AS n;
END
$$
"""

# For SQL, within the caller's transaction. It asks for no membership: whoever may call it may broadcast.
BROADCAST = """
CREATE FUNCTION att_broadcast(group_id uuid, body json, key text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    head bigint;
    first bigint;
    brackets text;
BEGIN
    IF json_typeof(body) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'the body must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(CAST(body AS text)) > 1048576 THEN
        RAISE EXCEPTION 'the body must not be larger than 1 MiB' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF key !~ '^[!-~]([ -~]{0,198}[!-~])?$' THEN
        RAISE EXCEPTION 'a key has 1 to 200 printable ASCII characters, with no space at its ends'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Without its strings, from the innermost pairs of brackets to the outermost: few programs read what is nested
    -- deeper, and ours do not.
    brackets = regexp_replace(CAST(body AS text), '"(\\\\.|[^"\\\\])*"|[^][{}"]', '', 'g');
    FOR level IN 1..200 LOOP
        brackets = replace(replace(brackets, '[]', ''), '{}', '');
        EXIT WHEN brackets = '';
    END LOOP;
    IF brackets <> '' THEN
        RAISE EXCEPTION 'the body is nested too deeply' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT g.seq INTO head FROM @schema.groups AS g WHERE g.id = att_broadcast.group_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no group with the id %', att_broadcast.group_id USING ERRCODE = 'no_data_found';
    END IF;
    SELECT e.seq INTO first FROM @schema.events AS e
        WHERE e.group_id = att_broadcast.group_id AND e.key = att_broadcast.key;
    IF FOUND THEN RETURN first; END IF;
    INSERT INTO @schema.events (group_id, seq, kind, actor_id, body, key) VALUES (
        att_broadcast.group_id,
        head + 1,
        'message',
        CAST(nullif(current_setting('att.actor_id', true), '') AS uuid),
        att_broadcast.body,
        att_broadcast.key
    );
    UPDATE @schema.groups AS g SET seq = head + 1 WHERE g.id = att_broadcast.group_id;
    PERFORM pg_notify(
        'att',
        CAST(jsonb_build_object('groups', jsonb_build_object(att_broadcast.group_id, head + 1)) AS text)
    );
    RETURN head + 1;
END
$$
"""

# The numbers of entries keep each notification below its limit of 8,000 bytes: 60 times 61, and 40 times 103.
LOG_CHANGES = """
CREATE FUNCTION att_log_changes(kinds text[], group_ids uuid[], user_ids uuid[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    moment timestamp with time zone;
    heads jsonb;
    joined jsonb;
BEGIN
    PERFORM FROM @schema.groups AS g WHERE g.id = ANY (group_ids) ORDER BY g.id FOR NO KEY UPDATE;
    moment = clock_timestamp();
    WITH written AS (
        INSERT INTO @schema.events AS e (group_id, seq, kind, actor_id, at)
        SELECT g.id, g.seq + row_number() OVER (PARTITION BY g.id ORDER BY c.place), c.kind, c.user_id, moment
        FROM unnest(kinds, group_ids, user_ids) WITH ORDINALITY AS c (kind, group_id, user_id, place)
        JOIN @schema.groups AS g ON g.id = c.group_id AND g.id = ANY (group_ids)
        RETURNING e.group_id, e.seq, e.kind, e.actor_id
    ), moved AS (
        UPDATE @schema.groups AS g SET seq = h.seq
        FROM (SELECT w.group_id, max(w.seq) AS seq FROM written AS w GROUP BY w.group_id) AS h
        WHERE g.id = h.group_id AND g.id = ANY (group_ids)
        RETURNING g.id, g.seq
    )
    SELECT
        (SELECT jsonb_agg(jsonb_build_array(m.id, m.seq)) FROM moved AS m),
        (
            SELECT jsonb_agg(jsonb_build_array(w.group_id, w.seq, w.actor_id) ORDER BY w.group_id, w.seq)
            FROM written AS w WHERE w.kind = 'joined'
        )
        INTO heads, joined;
    IF greatest(jsonb_array_length(heads), jsonb_array_length(joined)) > 1000 THEN
        PERFORM pg_notify('att', '{"sweep": true}');
        RETURN;
    END IF;
    PERFORM pg_notify('att', CAST(jsonb_strip_nulls(jsonb_build_object('groups', g.heads, 'joined', j.joined)) AS text))
    FROM (
        SELECT (h.place - 1) / 60 AS part, jsonb_object_agg(h.head ->> 0, h.head -> 1) AS heads
        FROM jsonb_array_elements(heads) WITH ORDINALITY AS h (head, place) GROUP BY part
    ) AS g
    FULL JOIN (
        SELECT (h.place - 1) / 40 AS part, jsonb_agg(h.row ORDER BY h.place) AS joined
        FROM jsonb_array_elements(joined) WITH ORDINALITY AS h (row, place) GROUP BY part
    ) AS j ON j.part = g.part;
END
$$
"""

# Once for each statement. All that a deleted user takes along is one statement too, also of many users. An update is
# a change of membership only for the pairs that were not there before, or are not there after it. Of a group that is
# gone, LOG_DELETION has told.
LOG_MEMBERS = """
CREATE FUNCTION att_log_members() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kinds text[];
    group_ids uuid[];
    user_ids uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(CAST('joined' AS text)), array_agg(n.group_id), array_agg(n.user_id)
            INTO kinds, group_ids, user_ids FROM new_rows AS n;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(CAST('left' AS text)), array_agg(o.group_id), array_agg(o.user_id)
            INTO kinds, group_ids, user_ids FROM old_rows AS o;
    ELSE
        SELECT array_agg(c.kind), array_agg(c.group_id), array_agg(c.user_id) INTO kinds, group_ids, user_ids FROM (
            SELECT CAST('left' AS text) AS kind, o.* FROM (
                SELECT group_id, user_id FROM old_rows EXCEPT SELECT group_id, user_id FROM new_rows
            ) AS o
            UNION ALL
            SELECT CAST('joined' AS text) AS kind, n.* FROM (
                SELECT group_id, user_id FROM new_rows EXCEPT SELECT group_id, user_id FROM old_rows
            ) AS n
        ) AS c;
    END IF;
    IF kinds IS NOT NULL THEN
        PERFORM @schema.att_log_changes(kinds, group_ids, user_ids);
    END IF;
    RETURN NULL;
END
$$
"""

# A row that is being deleted cannot be updated any more; its lock keeps everyone else from taking the same seq.
LOG_DELETION = """
CREATE FUNCTION att_log_deletion() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone bigint;
BEGIN
    INSERT INTO @schema.events (group_id, seq, kind, actor_id)
        SELECT OLD.id, OLD.seq + row_number() OVER (ORDER BY m.user_id), 'left', m.user_id
        FROM @schema.members AS m WHERE m.group_id = OLD.id;
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN
        PERFORM pg_notify(
            'att',
            CAST(jsonb_build_object('groups', jsonb_build_object(OLD.id, OLD.seq + gone)) AS text)
        );
    END IF;
    RETURN OLD;
END
$$
"""

NOTIFY_SESSIONS = """
CREATE FUNCTION att_notify_sessions() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('att', CAST(jsonb_build_object('sessions', jsonb_agg(s.id)) AS text))
    FROM (
        SELECT o.id, (row_number() OVER () - 1) / 190 AS part FROM old_rows AS o WHERE o.expires_at > now()
    ) AS s
    GROUP BY s.part;
    RETURN NULL;
END
$$
"""

# Whoever is disabled is signed out, also when that is done in SQL.
END_SESSIONS = """
CREATE FUNCTION att_end_sessions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @schema.sessions AS s WHERE s.user_id = NEW.id;
    RETURN NULL;
END
$$
"""

REFUSE_TRUNCATE = """
CREATE FUNCTION att_refuse_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of % would leave no trace in the log; use DELETE', TG_TABLE_NAME
        USING ERRCODE = 'feature_not_supported';
END
$$
"""

FUNCTIONS = {
    "att_append(uuid[], text[], uuid[], text[], text[])": APPEND,
    "att_broadcast(uuid, json, text)": BROADCAST,
    "att_log_changes(text[], uuid[], uuid[])": LOG_CHANGES,
    "att_log_members()": LOG_MEMBERS,
    "att_log_deletion()": LOG_DELETION,
    "att_notify_sessions()": NOTIFY_SESSIONS,
    "att_end_sessions()": END_SESSIONS,
    "att_refuse_truncate()": REFUSE_TRUNCATE,
}

TRIGGERS = {
    ("att_log_joined", "members"): "AFTER INSERT ON members REFERENCING NEW TABLE AS new_rows"
    " FOR EACH STATEMENT EXECUTE FUNCTION att_log_members()",
    ("att_log_left", "members"): "AFTER DELETE ON members REFERENCING OLD TABLE AS old_rows"
    " FOR EACH STATEMENT EXECUTE FUNCTION att_log_members()",
    ("att_log_moved", "members"): "AFTER UPDATE ON members REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"
    " FOR EACH STATEMENT EXECUTE FUNCTION att_log_members()",
    ("att_log_deletion", "groups"): "BEFORE DELETE ON groups FOR EACH ROW EXECUTE FUNCTION att_log_deletion()",
    ("att_end_sessions", "users"): "AFTER UPDATE OF active ON users FOR EACH ROW"
    " WHEN (OLD.active AND NOT NEW.active) EXECUTE FUNCTION att_end_sessions()",
    ("att_notify_sessions", "sessions"): "AFTER DELETE ON sessions REFERENCING OLD TABLE AS old_rows"
    " FOR EACH STATEMENT EXECUTE FUNCTION att_notify_sessions()",
} | {
    ("att_refuse_truncate", table): f"BEFORE TRUNCATE ON {table}"
    " FOR EACH STATEMENT EXECUTE FUNCTION att_refuse_truncate()"
    for table in ("users", "groups", "members", "events")
}

# As before, but that it is silent on groups.seq, which each broadcast moves.
RECORD_HISTORY = """
CREATE OR REPLACE FUNCTION att_record_history() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    hidden CONSTANT text[] = '{HIDDEN}';
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
HIDDEN = "password_hash,login_key,name_key,last_name_key,search_text"


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("body", sa.JSON(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "seq", name=op.f("pk_events")),
        sa.CheckConstraint("kind IN ('message', 'joined', 'left')", name=op.f("ck_events_kind")),
    )
    key_there = sa.text("key IS NOT NULL")
    op.create_index(
        op.f("ix_events_group_id_key"), "events", ["group_id", "key"], unique=True, postgresql_where=key_there
    )
    op.create_index(
        op.f("ix_events_actor_id_group_id_seq"),
        "events",
        ["actor_id", "group_id", "seq"],
        postgresql_where=sa.text("kind <> 'message'"),
    )
    op.create_index(op.f("ix_events_at"), "events", ["at"])
    # Not compressed: that would be done under the lock of the group, and the size of a body is told without reading it.
    op.execute("ALTER TABLE events ALTER COLUMN body SET STORAGE EXTERNAL")
    op.add_column("groups", sa.Column("seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("groups", sa.Column("retention", sa.Integer(), server_default=sa.text("1000"), nullable=False))
    op.create_check_constraint(op.f("ck_groups_retention"), "groups", "retention BETWEEN 0 AND 1000000")
    # Room in each page for the next version of a row, so that a broadcast changes no index.
    op.execute("ALTER TABLE groups SET (fillfactor = 80)")
    _record_history(f"{HIDDEN},seq", 'INSERT OR DELETE OR UPDATE OF id, name, name_key, "join", post, retention')
    for signature, source in FUNCTIONS.items():
        op.execute(
            f"DO $migration$ BEGIN EXECUTE replace($function${source}$function$,"
            " '@schema', quote_ident(current_schema())); END $migration$"
        )
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    for (name, _), rest in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {rest}")


def downgrade() -> None:
    for name, table in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON {table}")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    _record_history(HIDDEN, "INSERT OR UPDATE OR DELETE")
    op.execute("ALTER TABLE groups RESET (fillfactor)")
    op.drop_column("groups", "retention")
    op.drop_column("groups", "seq")
    op.drop_table("events")


def _record_history(hidden: str, events: str) -> None:
    op.execute(RECORD_HISTORY.replace("HIDDEN", hidden))
    op.execute("DROP TRIGGER att_record_history ON groups")
    op.execute(
        f"CREATE TRIGGER att_record_history AFTER {events} ON groups FOR EACH ROW EXECUTE FUNCTION att_record_history()"
    )
