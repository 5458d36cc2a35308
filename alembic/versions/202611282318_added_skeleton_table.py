"""Added skeleton table

The servers of 0.2.0 neither read nor write it. Names that they store get their skeletons from a later server.

Revision ID: 7b1e93d05ac4
Revises: b81f4e6a2d93
Create Date: 2026-11-28 23:18:20.410733
"""

import sqlalchemy as sa
from alembic import op

revision = "7b1e93d05ac4"
down_revision = "b81f4e6a2d93"
branch_labels = None
depends_on = None

NAMES = {"users": "login", "groups": "name", "roles": "name"}

# With the rights of its owner, since servers that do not know the table may run as a role without rights on it.
FORGET = """
CREATE FUNCTION att_forget_skeletons() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @schema.skeletons WHERE owner_id = OLD.id;
    RETURN NULL;
END
$$
"""
# A role that may add users may do what a server needs besides.
GRANT = """
DO $migration$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END
        FROM pg_class AS c CROSS JOIN aclexplode(c.relacl) AS r
        WHERE c.oid = CAST('users' AS regclass) AND r.privilege_type = 'INSERT' AND r.grantee <> c.relowner
    LOOP
        EXECUTE 'GRANT SELECT, INSERT ON skeletons TO ' || grantee;
    END LOOP;
END
$migration$
"""


def upgrade() -> None:
    op.create_table(
        "skeletons",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("skeleton", sa.Text(collation="C"), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "skeleton", name=op.f("pk_skeletons")),
    )
    op.create_index(op.f("ix_skeletons_owner_id"), "skeletons", ["owner_id"])
    op.execute(GRANT)
    op.execute(
        f"DO $migration$ BEGIN EXECUTE replace($function${FORGET}$function$,"
        " '@schema', quote_ident(current_schema())); END $migration$"
    )
    op.execute("REVOKE ALL ON FUNCTION att_forget_skeletons() FROM PUBLIC")
    for table, name in NAMES.items():
        run = "FOR EACH ROW {} EXECUTE FUNCTION att_forget_skeletons()"
        op.execute(f"CREATE TRIGGER att_forget_deleted_skeletons AFTER DELETE ON {table} {run.format('')}")
        changed = f"WHEN (OLD.{name} IS DISTINCT FROM NEW.{name} OR OLD.{{0}} IS DISTINCT FROM NEW.{{0}})"
        key = f"{name}_key"
        op.execute(
            f"CREATE TRIGGER att_forget_changed_skeletons AFTER UPDATE OF {name}, {key} ON {table}"
            f" {run.format(changed.format(key))}"
        )


def downgrade() -> None:
    for table in NAMES:
        op.execute(f"DROP TRIGGER att_forget_deleted_skeletons ON {table}")
        op.execute(f"DROP TRIGGER att_forget_changed_skeletons ON {table}")
    op.execute("DROP FUNCTION att_forget_skeletons()")
    op.drop_table("skeletons")
