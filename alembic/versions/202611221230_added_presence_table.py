"""Added presence table

Revision ID: 7a41c8e2f95d
Revises: 5b0e7f2c91a6
Create Date: 2026-11-22 12:30:41.507216
"""

import sqlalchemy as sa
from alembic import op

revision = "7a41c8e2f95d"
down_revision = "5b0e7f2c91a6"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_nodes")),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "presence",
        sa.Column("node_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sockets", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", "user_id", name=op.f("pk_presence")),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_presence_node_id_nodes"), ondelete="CASCADE"),
        sa.CheckConstraint("sockets > 0", name=op.f("ck_presence_sockets")),
        prefixes=["UNLOGGED"],
    )
    op.create_index(op.f("ix_presence_user_id"), "presence", ["user_id"])


def downgrade() -> None:
    op.drop_table("presence")
    op.drop_table("nodes")
