"""Logged changes of groups, roles and redactions

Revision ID: 5f0b7d3c91ae
Revises: d5e83a1c7f42
Create Date: 2026-11-29 02:30:14.903127

Servers of 0.2.0 run on this: they send the new kinds as frames of types that clients ignore, and a redacted message
with null as its data. A later release may contract the default of the last parameter of att_log_changes.
"""

from alembic import context, op

revision = "5f0b7d3c91ae"
down_revision = "d5e83a1c7f42"
branch_labels = None
depends_on = None

# Events of the new kinds have no actor_id, since servers of 0.2.0 take an event of a user that is no message for their
# joining or leaving. The body has all facts, as the members of the frame.
ACTOR = "CAST(nullif(current_setting('att.actor_id', true), '') AS uuid)"

# As before, with a body for each change.
LOG_CHANGES = """
CREATE FUNCTION att_log_changes(kinds text[], group_ids uuid[], user_ids uuid[], bodies jsonb[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    moment timestamp with time zone;
    heads jsonb;
    head jsonb;
    joined jsonb;
BEGIN
    PERFORM FROM @schema.groups AS g WHERE g.id = ANY (group_ids) ORDER BY g.id FOR NO KEY UPDATE;
    moment = clock_timestamp();
    WITH written AS (
        INSERT INTO @schema.events AS e (group_id, seq, kind, actor_id, body, at)
        SELECT g.id, g.seq + row_number() OVER (PARTITION BY g.id ORDER BY c.place), c.kind, c.user_id,
            CAST(c.body AS json), moment
        FROM unnest(kinds, group_ids, user_ids, bodies)
            WITH ORDINALITY AS c (kind, group_id, user_id, body, place)
        CROSS JOIN LATERAL (
            SELECT t.id, t.seq FROM @schema.groups AS t WHERE t.id = c.group_id OFFSET 0
        ) AS g
        RETURNING e.group_id, e.seq, e.kind, e.actor_id
    )
    SELECT
        (
            SELECT jsonb_agg(jsonb_build_array(m.group_id, m.seq))
            FROM (SELECT w.group_id, max(w.seq) AS seq FROM written AS w GROUP BY w.group_id) AS m
        ),
        (
            SELECT jsonb_agg(jsonb_build_array(w.group_id, w.seq, w.actor_id) ORDER BY w.group_id, w.seq)
            FROM written AS w WHERE w.kind = 'joined'
        )
        INTO heads, joined;
    FOR head IN SELECT * FROM jsonb_array_elements(heads) LOOP
        UPDATE @schema.groups AS g SET seq = CAST(head ->> 1 AS bigint) WHERE g.id = CAST(head ->> 0 AS uuid);
    END LOOP;
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

# An update is a leaving of the pairs that are not there after it, a joining of those that were not there before, and a
# change of role of the others whose role differs. Grouping needs no join, whose plan could be one for few rows.
LOG_MEMBERS = """
CREATE FUNCTION att_log_members() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    actor CONSTANT uuid = @actor;
    kinds text[];
    group_ids uuid[];
    user_ids uuid[];
    bodies jsonb[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(CAST('joined' AS text)), array_agg(n.group_id), array_agg(n.user_id)
            INTO kinds, group_ids, user_ids FROM new_rows AS n;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(CAST('left' AS text)), array_agg(o.group_id), array_agg(o.user_id),
            array_agg(jsonb_build_object('removed', actor IS DISTINCT FROM o.user_id, 'by', actor))
            INTO kinds, group_ids, user_ids, bodies FROM old_rows AS o;
    ELSE
        SELECT array_agg(d.kind), array_agg(d.group_id), array_agg(CASE WHEN d.kind <> 'role' THEN d.user_id END),
            array_agg(CASE d.kind
                WHEN 'left' THEN jsonb_build_object('removed', actor IS DISTINCT FROM d.user_id, 'by', actor)
                WHEN 'role' THEN jsonb_build_object('user', d.user_id, 'role', d.role, 'by', actor)
            END)
            INTO kinds, group_ids, user_ids, bodies
        FROM (
            SELECT c.group_id, c.user_id, max(c.new_role) AS role, CASE
                WHEN max(c.new_role) IS NULL THEN 'left' WHEN max(c.old_role) IS NULL THEN 'joined' ELSE 'role'
            END AS kind
            FROM (
                SELECT o.group_id, o.user_id, o.role AS old_role, NULL AS new_role FROM old_rows AS o
                UNION ALL
                SELECT n.group_id, n.user_id, NULL, n.role FROM new_rows AS n
            ) AS c
            GROUP BY c.group_id, c.user_id
            HAVING max(c.old_role) IS DISTINCT FROM max(c.new_role)
            ORDER BY max(c.new_role) IS NOT NULL, max(c.old_role) IS NOT NULL
        ) AS d;
    END IF;
    IF kinds IS NOT NULL THEN
        PERFORM @schema.att_log_changes(kinds, group_ids, user_ids, bodies);
    END IF;
    RETURN NULL;
END
$$
"""

# As before, and each leaving says who has deleted the group. Those that att_remove_members writes are behind the end of
# the log, where nobody reads their bodies.
LOG_DELETION = """
CREATE FUNCTION att_log_deletion() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    facts CONSTANT json = CAST(jsonb_build_object('removed', true, 'by', @actor) AS json);
    gone bigint = 1;
BEGIN
    IF (SELECT count(*) FROM (SELECT FROM @schema.members AS m WHERE m.group_id = OLD.id LIMIT 1001) AS m) > 1000 THEN
        INSERT INTO @schema.events (group_id, seq, kind, actor_id, body)
            VALUES (OLD.id, OLD.seq + 1, 'left', OLD.id, facts);
        PERFORM @schema.att_plan_removal('group', ARRAY[OLD.id], OLD.seq + 1);
    ELSE
        INSERT INTO @schema.events (group_id, seq, kind, actor_id, body)
            SELECT OLD.id, OLD.seq + row_number() OVER (ORDER BY m.user_id), 'left', m.user_id, facts
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

# The event has those values of the group that its members can see.
LOG_CHANGED = """
CREATE FUNCTION att_log_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    before CONSTANT jsonb = to_jsonb(OLD);
    facts CONSTANT jsonb = (
        SELECT jsonb_object_agg(n.key, n.value) FROM jsonb_each(to_jsonb(NEW)) AS n
        WHERE n.key = ANY ('{name,join,post,retention,history}')
    );
    head bigint;
BEGIN
    IF before @> facts THEN RETURN NULL; END IF;
    UPDATE @schema.groups AS g SET seq = g.seq + 1 WHERE g.id = NEW.id RETURNING g.seq INTO head;
    INSERT INTO @schema.events (group_id, seq, kind, body)
        VALUES (NEW.id, head, 'changed', CAST(facts || jsonb_build_object('by', @actor) AS json));
    PERFORM pg_notify('att', CAST(jsonb_build_object('groups', jsonb_build_object(NEW.id, head)) AS text));
    RETURN NULL;
END
$$
"""

# A message is an object, so a body of null is one that has been redacted.
REDACT = """
CREATE FUNCTION att_redact(group_id uuid, seq bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    head bigint;
BEGIN
    SELECT g.seq + 1 INTO head FROM @schema.groups AS g WHERE g.id = att_redact.group_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN NULL; END IF;
    UPDATE @schema.events AS e SET body = 'null'
        WHERE e.group_id = att_redact.group_id AND e.seq = att_redact.seq
            AND e.kind = 'message' AND CAST(e.body AS text) <> 'null';
    IF NOT FOUND THEN RETURN NULL; END IF;
    INSERT INTO @schema.events (group_id, seq, kind, body) VALUES (
        att_redact.group_id, head, 'redacted', CAST(jsonb_build_object('of', att_redact.seq, 'by', @actor) AS json)
    );
    UPDATE @schema.groups AS g SET seq = head WHERE g.id = att_redact.group_id;
    PERFORM pg_notify('att', CAST(jsonb_build_object('groups', jsonb_build_object(att_redact.group_id, head)) AS text));
    RETURN head;
END
$$
"""

# In att_broadcast: the key of a redacted message is not known to belong to other bytes.
COMPARED = "            AND CAST(e.body AS text) <> CAST(att_broadcast.body AS text)\n"
COMPARED_IF_THERE = COMPARED + "            AND CAST(e.body AS text) <> 'null'\n"

# A role that may append may redact.
GRANT = """
DO $migration$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END
        FROM pg_proc AS p CROSS JOIN aclexplode(p.proacl) AS r
        WHERE p.oid = CAST('att_append(uuid[], text[], uuid[], text[], text[], bigint)' AS regprocedure)
            AND r.grantee <> p.proowner
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION att_redact TO ' || grantee;
    END LOOP;
END
$migration$
"""


def upgrade() -> None:
    _allow_kinds("message", "joined", "left", "changed", "role", "redacted")
    op.execute("DROP FUNCTION att_log_changes(text[], uuid[], uuid[])")
    _create(LOG_CHANGES)
    _create(LOG_MEMBERS)
    _create(LOG_DELETION)
    _create(LOG_CHANGED)
    _create(REDACT)
    for signature in (
        "att_log_changes(text[], uuid[], uuid[], jsonb[])",
        "att_log_changed()",
        "att_redact(uuid, bigint)",
    ):
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    op.execute(GRANT)
    op.execute(
        "CREATE TRIGGER att_log_changed AFTER UPDATE ON groups FOR EACH ROW WHEN (OLD.seq = NEW.seq)"
        " EXECUTE FUNCTION att_log_changed()"
    )
    _replace_in_broadcast(COMPARED, COMPARED_IF_THERE)


def downgrade() -> None:
    _replace_in_broadcast(COMPARED_IF_THERE, COMPARED)
    op.execute("DROP TRIGGER att_log_changed ON groups")
    op.execute("DROP FUNCTION att_redact(uuid, bigint)")
    op.execute("DROP FUNCTION att_log_changed()")
    _create(context.script.get_revision("7c1e5d90ab34").module.LOG_DELETION)
    _create(context.script.get_revision("3d96b1f07c4e").module.LOG_MEMBERS)
    op.execute("DROP FUNCTION att_log_changes(text[], uuid[], uuid[], jsonb[])")
    _create(context.script.get_revision("c27d90b4e1f8").module.LOG_CHANGES)
    op.execute("REVOKE ALL ON FUNCTION att_log_changes(text[], uuid[], uuid[]) FROM PUBLIC")
    _allow_kinds("message", "joined", "left")


def _allow_kinds(*kinds: str) -> None:
    """Replace the check of the kind. It is not held against the rows that are there, which would take long.

    At the downgrade those of the new kinds stay, since seqs have no gaps.
    """
    op.drop_constraint(op.f("ck_events_kind"), "events")
    names = ", ".join(f"'{kind}'" for kind in kinds)
    op.execute(f"ALTER TABLE events ADD CONSTRAINT ck_events_kind CHECK (kind IN ({names})) NOT VALID")


def _create(source: str) -> None:
    source = source.replace("@actor", ACTOR).replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    op.execute(
        f"DO $migration$ BEGIN EXECUTE replace($function${source}$function$,"
        " '@schema', quote_ident(current_schema())); END $migration$"
    )


def _replace_in_broadcast(old: str, new: str) -> None:
    """Replace a part of the function as it is in the database."""
    op.execute(f"""
        DO $migration$
        DECLARE
            old CONSTANT text = $part${old}$part$;
            source CONSTANT text = pg_get_functiondef(CAST('att_broadcast(uuid, json, text)' AS regprocedure));
        BEGIN
            ASSERT position(old IN source) > 0, 'att_broadcast is not as the migrations have left it';
            EXECUTE replace(source, old, $part${new}$part$);
        END
        $migration$
    """)
