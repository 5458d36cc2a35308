"""Added signing keys

Servers of 0.2.0 do not know the table, and run on. Nothing is left to contract.

Revision ID: 8f2b6d4e1a90
Revises: 7b1e93d05ac4
Create Date: 2026-11-29 00:01:18.205731
"""

import sqlalchemy as sa
from alembic import op

revision = "8f2b6d4e1a90"
down_revision = "7b1e93d05ac4"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "signing_keys",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "key",
            sa.LargeBinary(),
            server_default=sa.text("(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_signing_keys")),
    )
    op.execute("INSERT INTO signing_keys (name) VALUES ('device')")


def downgrade() -> None:
    op.drop_table("signing_keys")
