"""Appended one message at less cost

Revision ID: a4d17e90c3b5
Revises: 8e2f6a51c0d9
Create Date: 2026-11-29 11:20:41.203318

Servers of the last release run on it: the function takes and returns what it did. There is nothing to contract.
"""

from alembic import op

revision = "a4d17e90c3b5"
down_revision = "8e2f6a51c0d9"
branch_labels = None
depends_on = None

# A batch is appended by a query of many parts, which cost more than what they do for a single message.
ALONE = """\
    -- One message that a member may send, that is new, and for which there is room. The others are judged below.
    IF cardinality(bodies) = 1 AND group_ids[1] IS NOT NULL THEN
        PERFORM FROM @schema.groups AS t WHERE t.id = group_ids[1] FOR NO KEY UPDATE;
        moment = clock_timestamp();
        RETURN QUERY
        WITH moved AS (
            UPDATE @schema.groups AS g SET seq = g.seq + 1, log_end = g.log_end + octet_length(bodies[1])
            FROM @schema.members AS m
            WHERE g.id = group_ids[1] AND m.group_id = group_ids[1] AND m.user_id = actor_ids[1]
                AND (m.role = 'owner' OR m.role = 'member' AND g.post = 'members')
                AND (log_limit IS NULL OR g.log_end - g.log_start + pg_column_size(bodies) <= log_limit)
                AND (keys[1] IS NULL OR NOT EXISTS (
                    SELECT FROM @schema.events AS e WHERE e.group_id = group_ids[1] AND e.key = keys[1]
                ))
            RETURNING g.name, g.seq, g.log_end
        ), written AS (
            INSERT INTO @schema.events (group_id, seq, kind, actor_id, body, key, at, log_offset)
            SELECT group_ids[1], w.seq, 'message', actor_ids[1], CAST(bodies[1] AS json), keys[1], moment,
                w.log_end - octet_length(bodies[1])
            FROM moved AS w
        )
        SELECT 1, CAST(NULL AS text), group_ids[1], w.name, w.seq, moment, false FROM moved AS w;
        IF FOUND THEN RETURN; END IF;
    END IF;
"""
BEGIN = "BEGIN\n"
NEXT = "    IF array_position(group_ids, NULL)"


def upgrade() -> None:
    _replace(BEGIN + NEXT, BEGIN + ALONE + NEXT)


def downgrade() -> None:
    _replace(BEGIN + ALONE + NEXT, BEGIN + NEXT)


def _replace(old: str, new: str) -> None:
    """Replace a part of the function as it is in the database."""
    op.execute(f"""
        DO $migration$
        DECLARE
            old text = replace($part${old}$part$, '@schema', quote_ident(current_schema()));
            source text = pg_get_functiondef(CAST(
                'att_append(uuid[], text[], uuid[], text[], text[], bigint)' AS regprocedure
            ));
        BEGIN
            ASSERT position(old IN source) > 0, 'att_append is not as the migrations have left it';
            EXECUTE replace(
                source, old, replace($part${new}$part$, '@schema', quote_ident(current_schema()))
            );
        END
        $migration$
    """)
