"""Checked history rule

Revision ID: c3f17a90e5d4
Revises: 5a0de7c3b8f1
Create Date: 2026-11-29 02:01:40.113052

Apart from the migration before, so that nobody waits while the rows are checked. Servers of 0.2.0 run on it.
"""

from alembic import op

revision = "c3f17a90e5d4"
down_revision = "5a0de7c3b8f1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE groups VALIDATE CONSTRAINT ck_groups_history")


def downgrade() -> None:
    pass
