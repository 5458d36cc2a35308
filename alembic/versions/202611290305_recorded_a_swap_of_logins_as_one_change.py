"""Recorded a swap of logins as one change

Revision ID: 1f7ac3d95e08
Revises: e7b20d4f91c6
Create Date: 2026-11-29 03:05:07.318862

Servers of 0.2.0 run on this: they free no login. Nothing is left to contract.
"""

from alembic import op

revision = "1f7ac3d95e08"
down_revision = "e7b20d4f91c6"
branch_labels = None
depends_on = None

# A server puts a space before the keys of logins that pass from one user to another, until each has its new login. The
# history reads such a key without the space. So that nobody hides a change that way, no key has it at the commit.
CHECK_KEY = """
CREATE FUNCTION att_check_login_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM @schema.users AS u WHERE u.id = NEW.id AND starts_with(u.login_key, ' ')) THEN
        RAISE EXCEPTION 'the key of the login % begins with a space', NEW.login USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END
$$
"""
BEFORE = "    whole = coalesce(old_row, new_row);\n"
AFTER = """\
    IF TG_TABLE_NAME = 'users' THEN
        old_row = old_row || jsonb_build_object('login_key', regexp_replace(old_row ->> 'login_key', '^ ', ''));
        new_row = new_row || jsonb_build_object('login_key', regexp_replace(new_row ->> 'login_key', '^ ', ''));
    END IF;
"""


def upgrade() -> None:
    op.execute(
        f"DO $migration$ BEGIN EXECUTE replace($function${CHECK_KEY}$function$,"
        " '@schema', quote_ident(current_schema())); END $migration$"
    )
    op.execute("REVOKE ALL ON FUNCTION att_check_login_key() FROM PUBLIC")
    op.execute(
        "CREATE CONSTRAINT TRIGGER att_check_login_key AFTER INSERT OR UPDATE OF login_key ON users"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (starts_with(NEW.login_key, ' '))"
        " EXECUTE FUNCTION att_check_login_key()"
    )
    _replace(BEFORE, AFTER + BEFORE)


def downgrade() -> None:
    _replace(AFTER + BEFORE, BEFORE)
    op.execute("DROP TRIGGER att_check_login_key ON users")
    op.execute("DROP FUNCTION att_check_login_key()")


def _replace(old: str, new: str) -> None:
    """Replace a part of the function as it is in the database."""
    op.execute(f"""
        DO $migration$
        DECLARE
            source CONSTANT text = pg_get_functiondef(CAST('att_record_history()' AS regprocedure));
        BEGIN
            ASSERT position($part${old}$part$ IN source) > 0, 'att_record_history is another one';
            EXECUTE replace(source, $part${old}$part$, $part${new}$part$);
        END
        $migration$
    """)
