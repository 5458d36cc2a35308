"""Added details to sessions: when, from where and with what they were last used

Revision ID: 81d7c3e90f26
Revises: 5c1f0a7be2d4
Create Date: 2026-11-22 06:21:40.118374
"""

import sqlalchemy as sa
from alembic import op

revision = "81d7c3e90f26"
down_revision = "5c1f0a7be2d4"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sessions",
        sa.Column("last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.add_column("sessions", sa.Column("address", sa.Text(), nullable=True))
    op.add_column("sessions", sa.Column("user_agent", sa.Text(), nullable=True))
    op.create_index(op.f("ix_sessions_user_id_created_at_id"), "sessions", ["user_id", "created_at", "id"])
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"])
    op.drop_index(op.f("ix_sessions_user_id"), table_name="sessions")


def downgrade() -> None:
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"])
    op.drop_index(op.f("ix_sessions_expires_at"), table_name="sessions")
    op.drop_index(op.f("ix_sessions_user_id_created_at_id"), table_name="sessions")
    op.drop_column("sessions", "user_agent")
    op.drop_column("sessions", "address")
    op.drop_column("sessions", "last_seen_at")
