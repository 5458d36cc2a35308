"""Counted changes of presence

Revision ID: 8e2f6a51c0d9
Revises: 6e20b8f4d1a7
Create Date: 2026-11-29 03:20:12.402913

So that servers find out whether another one has recorded a change without reading what it has recorded. The table is
small and unlogged. Servers of the last release do not count; their signs of life are taken for changes.
"""

import sqlalchemy as sa
from alembic import op

revision = "8e2f6a51c0d9"
down_revision = "6e20b8f4d1a7"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("changes", sa.BigInteger, nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    op.drop_column("nodes", "changes")
