"""Added epochs of the log

Revision ID: b81f4e6a2d93
Revises: 7c1e5d90ab34
Create Date: 2026-11-28 23:05:17.402618

Servers of 0.2.0 run on this: they append by the functions that were there, and the new triggers record the forks.
"""

import sqlalchemy as sa
from alembic import op

revision = "b81f4e6a2d93"
down_revision = "7c1e5d90ab34"
branch_labels = None
depends_on = None

# An epoch is the time in which the log cannot have lost its end: one run of one PostgreSQL on one database. While it
# was stopped, its files may have been replaced by a backup, and a standby that is promoted has a run of its own. A row
# that came by pg_restore was written by another transaction than the row says, and a copy of the database has another
# OID. None of this needs a right, or a setting, and it is the same in all versions.
#
# Everyone who finds the newest epoch outdated computes the same number and the same id for the next, and inserts it,
# so nobody waits for a transaction that has done so and stays open. Rows of one number are equal but for began_at.
NEWEST = """
    SELECT e.number, e.id, CAST(CAST(e.xmin AS text) AS bigint) AS found_by, d.oid AS present_oid,
        e.started_at = pg_postmaster_start_time() AND e.database_oid = d.oid
            AND e.written_by = CAST(CAST(e.xmin AS text) AS bigint) AS is_present
    INTO newest
    FROM pg_database AS d LEFT JOIN (
        SELECT n.*, n.xmin FROM @schema.epochs AS n ORDER BY n.number DESC LIMIT 1
    ) AS e ON true
    WHERE d.datname = current_database();
"""
PINNED = """
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
"""

EPOCH = """
CREATE FUNCTION att_epoch() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER @pinned AS $$
DECLARE
    newest record;
BEGIN
    @newest
    RETURN CASE WHEN newest.is_present THEN newest.id END;
END
$$
"""

# By the update the row gets the xmin that the insert had: that of the transaction, or of its subtransaction. Servers
# that are on this database already find the new epoch by the sweep.
CURRENT_EPOCH = """
CREATE FUNCTION att_current_epoch(is_new boolean DEFAULT false, OUT number bigint, OUT id text)
LANGUAGE plpgsql SECURITY DEFINER @pinned AS $$
#variable_conflict use_column
DECLARE
    newest record;
    moment timestamp with time zone;
BEGIN
    @newest
    number = newest.number;
    id = newest.id;
    IF newest.is_present AND NOT is_new THEN RETURN; END IF;
    moment = clock_timestamp();
    number = coalesce(number, 0) + 1;
    id = left(encode(sha256(convert_to(concat_ws(
        ' ', id, newest.found_by, newest.present_oid,
        CAST(extract(epoch FROM pg_postmaster_start_time()) * 1000000 AS bigint),  -- the same text in any session
        CASE WHEN is_new THEN gen_random_uuid() END
    ), 'UTF8')), 'hex'), 32);
    INSERT INTO @schema.epochs AS e (number, began_at, id, started_at, database_oid, written_by) VALUES (
        att_current_epoch.number, moment, att_current_epoch.id, pg_postmaster_start_time(), newest.present_oid, 0
    );
    UPDATE @schema.epochs AS e SET written_by = CAST(CAST(e.xmin AS text) AS bigint)
        WHERE e.number = att_current_epoch.number AND e.began_at = moment;
    IF number > 1 THEN PERFORM pg_notify('att', '{"sweep": true}'); END IF;
END
$$
"""

BEGIN_EPOCH = """
CREATE FUNCTION att_begin_epoch() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @schema.att_current_epoch();
    RETURN (SELECT c.id FROM @schema.att_current_epoch(true) AS c);
END
$$
"""

# The first epoch has none before it.
RECORD_FORK = """
CREATE FUNCTION att_record_fork() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER @pinned AS $$
DECLARE
    present bigint;
BEGIN
    SELECT c.number INTO present FROM @schema.att_current_epoch() AS c;
    IF present > 1 THEN
        INSERT INTO @schema.forks (group_id, epoch, head) SELECT OLD.id, present, OLD.seq
        WHERE NOT EXISTS (SELECT FROM @schema.forks AS f WHERE f.group_id = OLD.id AND f.epoch = present);
    END IF;
    RETURN NULL;
END
$$
"""

HELD = """
CREATE FUNCTION att_held(group_ids uuid[], epoch text) RETURNS TABLE (group_id uuid, held bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER @pinned AS $$
#variable_conflict use_column
DECLARE
    known bigint = (SELECT max(e.number) FROM @schema.epochs AS e WHERE e.id = att_held.epoch);
BEGIN
    RETURN QUERY
    SELECT w.id, CASE WHEN known IS NULL THEN 0 ELSE least(
        coalesce(
            (SELECT g.seq FROM @schema.groups AS g WHERE g.id = w.id),
            (SELECT max(e.seq) FROM @schema.events AS e WHERE e.group_id = w.id),
            0
        ),
        (SELECT min(f.head) FROM @schema.forks AS f WHERE f.group_id = w.id AND f.epoch > known)
    ) END
    FROM unnest(group_ids) AS w (id);
END
$$
"""

TRIM_EPOCHS = """
CREATE FUNCTION att_trim_epochs(age interval, batch integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER @pinned AS $$
DECLARE
    oldest bigint = (SELECT max(e.number) FROM @schema.epochs AS e WHERE e.began_at < now() - age);
    trimmed bigint;
BEGIN
    DELETE FROM @schema.epochs AS e WHERE e.number < oldest;
    DELETE FROM @schema.forks AS f USING (
        SELECT o.group_id, o.epoch FROM @schema.forks AS o WHERE o.epoch <= oldest LIMIT batch
    ) AS o
    WHERE f.group_id = o.group_id AND f.epoch = o.epoch;
    GET DIAGNOSTICS trimmed = ROW_COUNT;
    RETURN trimmed;
END
$$
"""

FUNCTIONS = {
    "att_epoch()": EPOCH,
    "att_current_epoch(boolean)": CURRENT_EPOCH,
    "att_begin_epoch()": BEGIN_EPOCH,
    "att_held(uuid[], text)": HELD,
    "att_trim_epochs(interval, integer)": TRIM_EPOCHS,
    "att_record_fork()": RECORD_FORK,
}

TRIGGERS = {
    "att_record_fork": "AFTER UPDATE OF seq ON groups FOR EACH ROW WHEN (OLD.seq IS DISTINCT FROM NEW.seq)",
    "att_record_last_fork": "AFTER DELETE ON groups FOR EACH ROW",
}

# A role that may append may do what a server needs besides.
GRANT = """
DO $migration$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END
        FROM pg_proc AS p CROSS JOIN aclexplode(p.proacl) AS r
        WHERE p.oid = CAST('att_append(uuid[], text[], uuid[], text[], text[])' AS regprocedure)
            AND r.grantee <> p.proowner
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION att_epoch, att_current_epoch, att_held, att_trim_epochs TO ' || grantee;
    END LOOP;
END
$migration$
"""


def upgrade() -> None:
    op.create_table(
        "epochs",
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("database_oid", sa.BigInteger(), nullable=False),
        sa.Column("written_by", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", "began_at", name=op.f("pk_epochs")),
    )
    op.create_table(
        "forks",
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "epoch", name=op.f("pk_forks")),
    )
    op.create_index(op.f("ix_forks_epoch"), "forks", ["epoch"])
    for signature, source in FUNCTIONS.items():
        source = source.replace("@pinned", PINNED).replace("@newest", NEWEST)  # noqa: PLW2901 - of the same function
        op.execute(
            f"DO $migration$ BEGIN EXECUTE replace($function${source}$function$,"
            " '@schema', quote_ident(current_schema())); END $migration$"
        )
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    op.execute(GRANT)
    for name, event in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {event} EXECUTE FUNCTION att_record_fork()")


def downgrade() -> None:
    for name in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON groups")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    op.drop_table("forks")
    op.drop_table("epochs")
