"""Added history table

Revision ID: e92a50c7d618
Revises: c40b6e1d9a73
Create Date: 2026-11-22 06:23:37.905512
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "e92a50c7d618"
down_revision = "c40b6e1d9a73"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "history",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("row_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("session_id", sa.Uuid(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("database_role", sa.Text(), server_default=sa.text("session_user"), nullable=False),
        sa.Column("old", postgresql.JSONB(), nullable=True),
        sa.Column("new", postgresql.JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_history")),
    )
    op.create_index(op.f("ix_history_row_id_id"), "history", ["row_id", "id"])
    op.create_index(op.f("ix_history_user_id_id"), "history", ["user_id", "id"])
    op.create_index(op.f("ix_history_actor_id_id"), "history", ["actor_id", "id"])
    op.create_index(op.f("ix_history_table_name_operation_id"), "history", ["table_name", "operation", "id"])
    op.create_index(op.f("ix_history_at_id"), "history", ["at", "id"])


def downgrade() -> None:
    op.drop_table("history")
