"""Added group table

Revision ID: 9eb4ef8ac748
Revises: d3cfb9449b5d
Create Date: 2026-11-22 02:35:36.159768
"""

import sqlalchemy as sa
from alembic import op

revision = "9eb4ef8ac748"
down_revision = "d3cfb9449b5d"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.Text(collation="C"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint("name_key", name=op.f("uq_groups_name_key")),
    )
    op.create_table(
        "members",
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role IN ('owner', 'member')", name=op.f("ck_members_role")),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name=op.f("fk_members_group_id_groups"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_members_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("group_id", "user_id", name=op.f("pk_members")),
    )
    op.create_index(op.f("ix_members_group_id_joined_at_user_id"), "members", ["group_id", "joined_at", "user_id"])
    op.create_index(op.f("ix_members_user_id_joined_at_group_id"), "members", ["user_id", "joined_at", "group_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_members_user_id_joined_at_group_id"), table_name="members")
    op.drop_index(op.f("ix_members_group_id_joined_at_user_id"), table_name="members")
    op.drop_table("members")
    op.drop_table("groups")
