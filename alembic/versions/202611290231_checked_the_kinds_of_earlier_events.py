"""Checked the kinds of earlier events

Revision ID: c4e81a90d7f2
Revises: 5f0b7d3c91ae
Create Date: 2026-11-29 02:31:37.118204

In a migration, and so a transaction, of its own: it reads all events, while everyone may read and write them.
"""

from alembic import op

revision = "c4e81a90d7f2"
down_revision = "5f0b7d3c91ae"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE events VALIDATE CONSTRAINT ck_events_kind")


def downgrade() -> None:
    """Leave the constraint as it is: the migration before replaces it."""
