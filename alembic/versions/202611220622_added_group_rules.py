"""Added rules to groups: who may let themselves in, and who may broadcast

Revision ID: c40b6e1d9a73
Revises: 81d7c3e90f26
Create Date: 2026-11-22 06:22:58.660201
"""

import sqlalchemy as sa
from alembic import op

revision = "c40b6e1d9a73"
down_revision = "81d7c3e90f26"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("groups", sa.Column("join", sa.Text(), server_default=sa.text("'invite'"), nullable=False))
    op.add_column("groups", sa.Column("post", sa.Text(), server_default=sa.text("'members'"), nullable=False))
    op.create_check_constraint(op.f("ck_groups_join"), "groups", "\"join\" IN ('invite', 'open')")
    op.create_check_constraint(op.f("ck_groups_post"), "groups", "post IN ('members', 'owners')")
    op.create_index(op.f("ix_groups_created_at_id"), "groups", ["created_at", "id"])
    op.create_index("ix_groups_open", "groups", ["created_at", "id"], postgresql_where=sa.text("\"join\" = 'open'"))


def downgrade() -> None:
    op.drop_index("ix_groups_open", table_name="groups")
    op.drop_index(op.f("ix_groups_created_at_id"), table_name="groups")
    op.drop_column("groups", "post")
    op.drop_column("groups", "join")
