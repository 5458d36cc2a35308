"""Counted the bytes of each log

Revision ID: d5e83a1c7f42
Revises: c3f17a90e5d4
Create Date: 2026-11-29 02:10:18.905127

Servers of 0.2.0 run on this: they call att_append without a limit. Messages from before are not counted. There is
nothing to contract.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "d5e83a1c7f42"
down_revision = "c3f17a90e5d4"
branch_labels = None
depends_on = None

# Each message has its place in the log: the bytes of all bodies before it, of whose beginning retention has removed
# some. A group has the place of its next message, and that of its oldest kept message when this was last looked up: so
# the difference is what the log has, or more. It is looked up only where the difference would exceed the limit, and
# retention need not lock the group.
#
# Messages to groups for which the whole batch could be too much are appended one after the other, the others at once,
# as before. The size of the array is the most that its bodies have.
APPEND = """
CREATE FUNCTION att_append(
    group_ids uuid[], name_keys text[], actor_ids uuid[], bodies text[], keys text[], log_limit bigint DEFAULT NULL
)
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
    largest bigint;
    nearly_full uuid[];
    is_full boolean = false;
    moment timestamp with time zone;
BEGIN
    IF array_position(group_ids, NULL) IS NOT NULL THEN
        locked = locked || ARRAY(SELECT g.id FROM @schema.groups AS g WHERE g.name_key = ANY (name_keys));
    END IF;
    SELECT array_agg(g.id), max(g.size) INTO locked, largest FROM (
        SELECT t.id, t.log_end - t.log_start AS size FROM @schema.groups AS t
        WHERE t.id = ANY (locked) ORDER BY t.id FOR NO KEY UPDATE
    ) AS g;
    IF largest + pg_column_size(bodies) > log_limit THEN
        UPDATE @schema.groups AS g SET log_start = coalesce(
            (
                SELECT e.log_offset FROM @schema.events AS e
                WHERE e.group_id = g.id AND e.log_offset IS NOT NULL ORDER BY e.seq LIMIT 1
            ),
            g.log_end
        )
        WHERE g.id = ANY (locked) AND g.log_end - g.log_start + pg_column_size(bodies) > log_limit;
        nearly_full = ARRAY(
            SELECT g.id FROM @schema.groups AS g
            WHERE g.id = ANY (locked) AND g.log_end - g.log_start + pg_column_size(bodies) > log_limit
        );
        IF cardinality(bodies) > 1 AND cardinality(nearly_full) > 0 THEN
            RETURN QUERY
            SELECT p.items[a.item], a.refusal, a.group_id, a.name, a.seq, a.at, a.is_repeat
            FROM (
                SELECT array_agg(CAST(d.item AS integer) ORDER BY d.item) AS items,
                    array_agg(d.group_id ORDER BY d.item) AS group_ids,
                    array_agg(d.name_key ORDER BY d.item) AS name_keys,
                    array_agg(d.actor_id ORDER BY d.item) AS actor_ids,
                    array_agg(d.body ORDER BY d.item) AS bodies,
                    array_agg(d.key ORDER BY d.item) AS keys
                FROM (
                    SELECT i.*, CASE WHEN EXISTS (
                        SELECT FROM @schema.groups AS g
                        WHERE g.id = ANY (nearly_full) AND (g.id = i.group_id OR g.name_key = i.name_key)
                    ) THEN i.item END AS alone
                    FROM unnest(group_ids, name_keys, actor_ids, bodies, keys)
                        WITH ORDINALITY AS i (group_id, name_key, actor_id, body, key, item)
                ) AS d
                GROUP BY d.alone ORDER BY d.alone
            ) AS p
            CROSS JOIN LATERAL @schema.att_append(
                p.group_ids, p.name_keys, p.actor_ids, p.bodies, p.keys, log_limit
            ) AS a;
            RETURN;
        END IF;
        is_full = EXISTS (
            SELECT FROM @schema.groups AS g
            WHERE g.id = ANY (nearly_full) AND g.log_end - g.log_start + octet_length(bodies[1]) > log_limit
        ) AND NOT EXISTS (
            SELECT FROM @schema.users AS u JOIN @schema.roles AS r ON r.id = u.role_id
            WHERE u.id = actor_ids[1] AND u.active AND r.permissions && '{*,quotas.exempt}'
        );
    END IF;
    moment = clock_timestamp();
    RETURN QUERY
    WITH drafts AS (
        SELECT i.*, octet_length(i.body) AS size, g.id AS found_id, g.name, g.post, g.seq AS head, g.log_end
        FROM unnest(group_ids, name_keys, actor_ids, bodies, keys)
            WITH ORDINALITY AS i (group_id, name_key, actor_id, body, key, item)
        LEFT JOIN LATERAL (
            SELECT t.id, t.name, t.post, t.seq, t.log_end FROM @schema.groups AS t WHERE t.id = i.group_id
            UNION ALL
            SELECT t.id, t.name, t.post, t.seq, t.log_end FROM @schema.groups AS t
            WHERE i.group_id IS NULL AND t.name_key = i.name_key
            LIMIT 1
        ) AS g ON g.id = ANY (locked)
    ), judged AS (
        SELECT d.*, e.seq AS first_seq, e.at AS first_at, coalesce(CASE
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
        END, CASE WHEN is_full AND e.seq IS NULL THEN 'quota exceeded' END) AS refusal
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
        SELECT l.*, l.head + count(*) FILTER (WHERE l.item = l.leader) OVER so_far AS new_seq,
            l.log_end + sum(l.size) FILTER (WHERE l.item = l.leader) OVER so_far AS new_end
        FROM led AS l
        WINDOW so_far AS (PARTITION BY l.found_id, l.is_wanted ORDER BY l.leader)
    ), written AS (
        INSERT INTO @schema.events (group_id, seq, kind, actor_id, body, key, at, log_offset)
        SELECT n.found_id, n.new_seq, 'message', n.actor_id, CAST(n.body AS json), n.key, moment, n.new_end - n.size
        FROM numbered AS n WHERE n.is_wanted AND n.item = n.leader
    ), moved AS (
        UPDATE @schema.groups AS g SET seq = h.seq, log_end = h.log_end
        FROM (
            SELECT n.found_id, max(n.new_seq) AS seq, max(n.new_end) AS log_end
            FROM numbered AS n WHERE n.is_wanted GROUP BY n.found_id
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
BEFORE = "att_append(uuid[], text[], uuid[], text[], text[])"
AFTER = "att_append(uuid[], text[], uuid[], text[], text[], bigint)"

# SQL is not limited, but counts. Parts of att_broadcast:
COUNTED = {
    "    plain text;\n": "    plain text;\n    place bigint;\n",
    "SELECT g.seq INTO head FROM": "SELECT g.seq, g.log_end INTO head, place FROM",
    "actor_id, body, key) VALUES (": "actor_id, body, key, log_offset) VALUES (",
    "        att_broadcast.key\n    );": "        att_broadcast.key,\n        place\n    );",
    "SET seq = head + 1 WHERE": "SET seq = head + 1, log_end = place + octet_length(CAST(body AS text)) WHERE",
}

# As before, but that it is silent on what each broadcast moves.
HIDDEN = "search_text,seq}"
HIDDEN_TOO = "search_text,seq,log_start,log_end}"


def upgrade() -> None:
    op.add_column("events", sa.Column("log_offset", sa.BigInteger(), nullable=True))
    for name in ("log_start", "log_end"):
        op.add_column("groups", sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    _replace_append(BEFORE, AFTER, APPEND)
    for old, new in COUNTED.items():
        _replace("att_broadcast(uuid, json, text)", old, new)
    _replace("att_record_history()", HIDDEN, HIDDEN_TOO)


def downgrade() -> None:
    _replace("att_record_history()", HIDDEN_TOO, HIDDEN)
    for old, new in reversed(COUNTED.items()):
        _replace("att_broadcast(uuid, json, text)", new, old)
    _replace_append(AFTER, BEFORE, context.script.get_revision("3d96b1f07c4e").module.APPEND)
    for name in ("log_start", "log_end"):
        op.drop_column("groups", name)
    op.drop_column("events", "log_offset")


def _replace_append(before: str, after: str, source: str) -> None:
    """Create the function with other parameters, for the same roles."""
    op.execute(
        f"DO $migration$ BEGIN EXECUTE replace($function${source}$function$,"
        " '@schema', quote_ident(current_schema())); END $migration$"
    )
    op.execute(f"REVOKE ALL ON FUNCTION {after} FROM PUBLIC")
    op.execute(f"""
        DO $migration$
        DECLARE
            grantee text;
        BEGIN
            FOR grantee IN
                SELECT CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END
                FROM pg_proc AS p CROSS JOIN aclexplode(p.proacl) AS r
                WHERE p.oid = CAST('{before}' AS regprocedure) AND r.grantee <> p.proowner
            LOOP
                EXECUTE 'GRANT EXECUTE ON FUNCTION {after} TO ' || grantee;
            END LOOP;
        END
        $migration$
    """)  # noqa: S608 - of constants
    op.execute(f"DROP FUNCTION {before}")


def _replace(function: str, old: str, new: str) -> None:
    """Replace a part of a function as it is in the database."""
    op.execute(f"""
        DO $migration$
        DECLARE
            source CONSTANT text = pg_get_functiondef(CAST('{function}' AS regprocedure));
        BEGIN
            ASSERT position($part${old}$part$ IN source) > 0, '{function} is not as the migrations have left it';
            EXECUTE replace(source, $part${old}$part$, $part${new}$part$);
        END
        $migration$
    """)
