"""Added outside senders

Revision ID: e7b20d4f91c6
Revises: e2b7c4d19f03
Create Date: 2026-11-29 02:45:33.904127

Servers of 0.2.0 run on it: what they append is noted, too. Users who have sent to a group without being its member
before are noted when they send again. A later release may contract nothing of it.
"""

import sqlalchemy as sa
from alembic import op

revision = "e7b20d4f91c6"
down_revision = "e2b7c4d19f03"
branch_labels = None
depends_on = None

# A note is written once for a thousand events of the group: it has a seq that the last message does not exceed.
APPEND = {
    ") THEN NULL\n                    WHEN s.role IS NULL THEN 'not a member'": (
        ") THEN CASE WHEN s.role IS NULL THEN 'outside' END\n"
        "                    WHEN s.role IS NULL THEN 'not a member'"
    ),
    "judged AS (\n        SELECT d.*, e.seq AS first_seq, e.at AS first_at, coalesce(CASE": (
        "verdicts AS (\n        SELECT d.*, e.seq AS first_seq, e.at AS first_at, CASE"
    ),
    "END, CASE WHEN is_full AND e.seq IS NULL THEN 'quota exceeded' END) AS refusal\n        FROM drafts": (
        "END AS verdict\n        FROM drafts"
    ),
    "), led AS (\n": """), judged AS (
        SELECT v.*, coalesce(
            nullif(v.verdict, 'outside'), CASE WHEN is_full AND v.first_seq IS NULL THEN 'quota exceeded' END
        ) AS refusal
        FROM verdicts AS v OFFSET 0
    ), led AS (
""",
    "), moved AS (\n        UPDATE @schema.groups": """), noted AS (
        INSERT INTO @schema.outside_senders (user_id, group_id, seq)
        SELECT n.actor_id, n.found_id, max(n.new_seq) + 1000
        FROM numbered AS n WHERE n.is_wanted AND n.verdict = 'outside' GROUP BY n.actor_id, n.found_id
        HAVING max(n.new_seq) > coalesce((
            SELECT o.seq FROM @schema.outside_senders AS o WHERE o.user_id = n.actor_id AND o.group_id = n.found_id
        ), 0)
        ON CONFLICT (user_id, group_id) DO UPDATE SET seq = excluded.seq
    ), moved AS (
        UPDATE @schema.groups""",
}
SENT = "    UPDATE @schema.groups AS g SET seq = head + 1, "
NOTED = """\
    INSERT INTO @schema.outside_senders (user_id, group_id, seq)
        SELECT a.id, att_broadcast.group_id, head + 1001
        FROM (SELECT CAST(nullif(current_setting('att.actor_id', true), '') AS uuid)) AS a (id)
        WHERE a.id IS NOT NULL AND NOT EXISTS (
            SELECT FROM @schema.members AS m WHERE m.group_id = att_broadcast.group_id AND m.user_id = a.id
        ) AND head + 1 > coalesce((
            SELECT o.seq FROM @schema.outside_senders AS o
            WHERE o.user_id = a.id AND o.group_id = att_broadcast.group_id
        ), 0)
        ON CONFLICT (user_id, group_id) DO UPDATE SET seq = excluded.seq;
"""
CHANGES = {
    "att_append(uuid[], text[], uuid[], text[], text[], bigint)": APPEND,
    "att_broadcast(uuid, json, text)": {SENT: NOTED + SENT},
}


def upgrade() -> None:
    op.create_table(
        "outside_senders",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name=op.f("fk_outside_senders_group_id_groups"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "group_id", name=op.f("pk_outside_senders")),
    )
    op.create_index(op.f("ix_outside_senders_group_id"), "outside_senders", ["group_id"])
    for signature, parts in CHANGES.items():
        _replace(signature, parts)


def downgrade() -> None:
    for signature, parts in CHANGES.items():
        _replace(signature, {new: old for old, new in reversed(parts.items())})
    op.drop_table("outside_senders")


def _replace(signature: str, parts: dict[str, str]) -> None:
    """Replace parts of the function as it is in the database, one after the other."""
    steps = "".join(
        f"""
            old = replace($part${old}$part$, '@schema', quote_ident(current_schema()));
            ASSERT position(old IN source) > 0, '{signature} is not as the migrations have left it';
            source = replace(source, old, replace($part${new}$part$, '@schema', quote_ident(current_schema())));
        """
        for old, new in parts.items()
    )
    op.execute(f"""
        DO $migration$
        DECLARE
            old text;
            source text = pg_get_functiondef(CAST('{signature}' AS regprocedure));
        BEGIN
            {steps}
            EXECUTE source;
        END
        $migration$
    """)
