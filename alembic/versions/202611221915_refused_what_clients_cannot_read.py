"""Refused what clients cannot read

Revision ID: e5a0c94d7b12
Revises: c27d90b4e1f8
Create Date: 2026-11-22 19:15:41.062938
"""

from alembic import context, op

revision = "e5a0c94d7b12"
down_revision = "c27d90b4e1f8"
branch_labels = None
depends_on = None

# As over HTTP: half a pair of surrogates is no character, and many programs read no integer of so many digits.
READABLE = r"""
    plain = CAST(body AS text);
    IF plain ~* '\\ud[89a-f]' THEN
        -- What is left of surrogates without escaped backslashes, and without pairs, stands alone.
        plain = replace(plain, '\\', ' ');
        plain = regexp_replace(plain, '\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}', ' ', 'gi');
        IF plain ~* '\\ud[89a-f]' THEN
            RAISE EXCEPTION 'the body must not contain a lone surrogate' USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    IF length(plain) > 4300 THEN
        plain = regexp_replace(plain, '"(\\.|[^"\\])*"', '"', 'g');
        IF EXISTS (SELECT FROM regexp_matches(plain, '[0-9]+', 'g') AS m WHERE length(m[1]) > 4300) THEN
            RAISE EXCEPTION 'the body must not contain a number of more than 4300 digits'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
"""
BEFORE = "    SELECT g.seq INTO head FROM"
VARIABLE = "    brackets text;\n"
SETTING = "SET search_path = pg_catalog, pg_temp"


def upgrade() -> None:
    source = _as_it_was().replace(BEFORE, READABLE.lstrip("\n") + BEFORE, 1)
    source = source.replace(VARIABLE, f"{VARIABLE}    plain text;\n", 1)
    _replace(source.replace(SETTING, f"{SETTING} SET standard_conforming_strings = on", 1))


def downgrade() -> None:
    _replace(_as_it_was())


def _as_it_was() -> str:
    source: str = context.script.get_revision("3d96b1f07c4e").module.BROADCAST
    return source


def _replace(source: str) -> None:
    source = source.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    op.execute(
        f"DO $migration$ BEGIN EXECUTE replace($function${source}$function$,"
        " '@schema', quote_ident(current_schema())); END $migration$"
    )
