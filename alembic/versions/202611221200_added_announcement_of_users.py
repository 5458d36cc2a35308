"""Added announcement of users

Revision ID: 5b0e7f2c91a6
Revises: 3d96b1f07c4e
Create Date: 2026-11-22 12:00:41.207316
"""

from alembic import op

revision = "5b0e7f2c91a6"
down_revision = "3d96b1f07c4e"
branch_labels = None
depends_on = None

# Tells who was deleted or disabled, for sessions that are kept elsewhere, which no trigger reaches. The number of users
# keeps each notification below its limit of 8,000 bytes: 190 times 40.
NOTIFY_USERS = """
CREATE FUNCTION att_notify_users() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    departed uuid[];
BEGIN
    IF TG_OP = 'DELETE' THEN
        SELECT array_agg(o.id) INTO departed FROM old_rows AS o;
    ELSE
        SELECT array_agg(o.id) INTO departed FROM old_rows AS o
            WHERE o.active AND NOT EXISTS (SELECT FROM new_rows AS n WHERE n.id = o.id AND n.active);
    END IF;
    PERFORM pg_notify('att', CAST(jsonb_build_object('users', jsonb_agg(u.id)) AS text))
    FROM (
        SELECT d.id, (d.place - 1) / 190 AS part FROM unnest(departed) WITH ORDINALITY AS d (id, place)
    ) AS u
    GROUP BY u.part;
    RETURN NULL;
END
$$
"""

TRIGGERS = {
    "att_notify_users_deleted": "AFTER DELETE ON users REFERENCING OLD TABLE AS old_rows",
    "att_notify_users_disabled": "AFTER UPDATE ON users REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
}


def upgrade() -> None:
    op.execute(NOTIFY_USERS)
    op.execute("REVOKE ALL ON FUNCTION att_notify_users() FROM PUBLIC")
    for name, event in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {event} FOR EACH STATEMENT EXECUTE FUNCTION att_notify_users()")


def downgrade() -> None:
    for name in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON users")
    op.execute("DROP FUNCTION att_notify_users()")
