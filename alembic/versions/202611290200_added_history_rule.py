"""Added history rule

Revision ID: 5a0de7c3b8f1
Revises: 94c6d2b7e0a5
Create Date: 2026-11-29 02:00:11.620417

Servers of 0.2.0 run on it: the groups that they make have the default, and their members read less of a group with
another rule. A later release may contract nothing of it.
"""

import sqlalchemy as sa
from alembic import op

revision = "5a0de7c3b8f1"
down_revision = "94c6d2b7e0a5"
branch_labels = None
depends_on = None

RECORDED = 'id, name, name_key, "join", post, retention'


def upgrade() -> None:
    op.add_column("groups", sa.Column("history", sa.Text(), server_default=sa.text("'since_join'"), nullable=False))
    # Not valid: to check the rows would keep everyone from the table. The next migration does.
    op.execute("ALTER TABLE groups ADD CONSTRAINT ck_groups_history CHECK (history IN ('since_join', 'all')) NOT VALID")
    _record_history(f"{RECORDED}, history")


def downgrade() -> None:
    _record_history(RECORDED)
    op.drop_column("groups", "history")


def _record_history(columns: str) -> None:
    op.execute("DROP TRIGGER att_record_history ON groups")
    op.execute(
        f"CREATE TRIGGER att_record_history AFTER INSERT OR DELETE OR UPDATE OF {columns} ON groups"
        " FOR EACH ROW EXECUTE FUNCTION att_record_history()"
    )
