"""Pinned the search_path of att_grams

Servers of 0.2.0 call the function as before. Nothing is left to contract.

Revision ID: 7be41d02c9a6
Revises: e5a0c94d7b12
Create Date: 2026-11-28 22:40:18.204417
"""

from alembic import op

revision = "7be41d02c9a6"
down_revision = "e5a0c94d7b12"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER FUNCTION att_grams(text) SET search_path = pg_catalog, pg_temp")


def downgrade() -> None:
    op.execute("ALTER FUNCTION att_grams(text) RESET search_path")
