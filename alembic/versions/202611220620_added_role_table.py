"""Added role table, and a profile to users

Revision ID: 5c1f0a7be2d4
Revises: 9eb4ef8ac748
Create Date: 2026-11-22 06:20:11.402115
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "5c1f0a7be2d4"
down_revision = "9eb4ef8ac748"
branch_labels = None
depends_on = None

# Every piece of one to three characters of each line: what a GIN index needs to find any part of a text.
GRAMS = """
CREATE FUNCTION att_grams(value text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$
SELECT array_agg(DISTINCT gram) FROM (
    SELECT substr(value, start, size) FROM generate_series(1, length(value)) AS start, generate_series(1, 3) AS size
    WHERE start + size - 1 <= length(value)
) AS grams (gram) WHERE strpos(gram, E'\\n') = 0
$$
"""


def upgrade() -> None:
    op.create_table(
        "roles",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.Text(collation="C"), nullable=False),
        sa.Column("permissions", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_roles")),
        sa.UniqueConstraint("name_key", name=op.f("uq_roles_name_key")),
    )
    op.execute(
        "INSERT INTO roles (name, name_key, permissions) VALUES ('Admin', 'admin', '{*}'), ('User', 'user', '{}')"
    )
    op.alter_column("users", "password_hash", nullable=True)
    op.add_column("users", sa.Column("first_name", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("users", sa.Column("last_name", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column(
        "users", sa.Column("last_name_key", sa.Text(collation="C"), server_default=sa.text("''"), nullable=False)
    )
    op.add_column("users", sa.Column("birth_date", sa.Date(), nullable=True))
    op.add_column(
        "users",
        sa.Column("registered_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.add_column("users", sa.Column("role_id", sa.Uuid(), nullable=True))
    op.add_column("users", sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    op.add_column("users", sa.Column("search_text", sa.Text(collation="C"), nullable=True))
    op.execute(
        "UPDATE users SET search_text = login_key || E'\\n\\n',"
        " role_id = (SELECT id FROM roles WHERE name_key = 'user')"
    )
    op.alter_column("users", "role_id", nullable=False)
    op.alter_column("users", "search_text", nullable=False)
    op.create_foreign_key(op.f("fk_users_role_id_roles"), "users", "roles", ["role_id"], ["id"], ondelete="RESTRICT")
    op.execute(GRAMS)
    op.create_index(op.f("ix_users_registered_at_id"), "users", ["registered_at", "id"])
    op.create_index(op.f("ix_users_last_name_key_id"), "users", ["last_name_key", "id"])
    op.create_index(op.f("ix_users_role_id_registered_at_id"), "users", ["role_id", "registered_at", "id"])
    op.create_index(op.f("ix_users_active_registered_at_id"), "users", ["active", "registered_at", "id"])
    op.create_index("ix_users_search", "users", [sa.text("att_grams(search_text)")], postgresql_using="gin")


def downgrade() -> None:
    op.drop_index("ix_users_search", table_name="users")
    op.execute("DROP FUNCTION att_grams(text)")
    op.execute("DELETE FROM users WHERE password_hash IS NULL")
    op.alter_column("users", "password_hash", nullable=False)
    for column in (
        "search_text",
        "active",
        "role_id",
        "registered_at",
        "birth_date",
        "last_name_key",
        "last_name",
        "first_name",
    ):
        op.drop_column("users", column)
    op.drop_table("roles")
