"""What schemathesis is told about us, in its own process: who it is, what there is, and what no schema can say."""

import hashlib
import os
import secrets
import tomllib
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import psycopg
import schemathesis

from att.api.schemas import _PASSWORDS
from att.core import precis
from att.core.process import collect_less_garbage

collect_less_garbage()

KNOWN = tomllib.loads(Path(__file__).with_name("schemathesis.toml").read_text())["dictionaries"]
GUEST, ROLE, SESSION = (KNOWN[name]["values"][-1] for name in ("user_id", "role_id", "session_id"))

LONGEST_ID = 1_500  # bytes in a URL, which has at most 8,190

NAMES = {
    "login": precis.check_login,
    "first_name": precis.check_person_name,
    "last_name": precis.check_person_name,
    "name": precis.check_group_name,
}

USER = """
INSERT INTO users (id, login, login_key, search_text, role_id) SELECT %s, %s, %s, '', id FROM roles WHERE name = %s
ON CONFLICT ({}) DO UPDATE SET role_id = excluded.role_id, active = true
"""
MEMBER = """
INSERT INTO members (group_id, user_id, role)
SELECT groups.id, users.id, %s FROM groups, users WHERE groups.name_key = 'tea' AND users.{} = %s
ON CONFLICT (group_id, user_id) DO UPDATE SET role = excluded.role
"""
SIGN_IN = """
INSERT INTO sessions (id, token_hash, user_id, expires_at)
SELECT %s, %s, id, now() + interval '1 hour' FROM users WHERE login_key = 'tester'
ON CONFLICT DO NOTHING
"""


@schemathesis.hook
def before_load_schema(_context, raw_schema):
    """Be stricter than what is published: no answer has a member that is not in the document."""
    components = raw_schema["components"]
    for name, schema in components["schemas"].items():
        if "properties" in schema and name != "Problem":
            schema.setdefault("additionalProperties", False)
    for response in components["responses"].values():
        response["content"]["application/problem+json"]["schema"]["unevaluatedProperties"] = False


def allowed_query(query):
    """Return what of a query goes together."""
    if "id" in query:
        return {"id": query["id"]}  # users are either named or searched for
    # A cursor is text from a page, an id of an event text from a stream.
    return {name: value for name, value in query.items() if name not in ("after", "last_event_id")}


def shorten(case):
    """Make the URL short enough: a longer one is refused before its route is known."""
    if isinstance(case.query, dict) and isinstance(case.query.get("group"), list):
        case.query["group"] = [each[:150] if isinstance(each, str) else each for each in case.query["group"][:3]]
    if isinstance(case.query, dict) and len(quote(str(case.query.get("last_event_id", "")))) > LONGEST_ID:
        del case.query["last_event_id"]


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """Take out of good requests what is rightly refused, for reasons that no schema can give."""
    shorten(case)
    if not (case.meta and case.meta.generation.mode.is_positive):
        return
    if isinstance(case.query, dict):
        case.query = allowed_query(case.query)
        if "ephemeral" in case.query and case.headers:
            case.headers.pop("Idempotency-Key", None)  # what is not kept has none
    if isinstance(case.body, list):
        case.body = [*{item.get("id", index): item for index, item in enumerate(case.body)}.values()]  # none twice
    items = case.body if isinstance(case.body, list) else [case.body]
    for index, item in enumerate(items):
        if isinstance(item, dict) and case.method == "PATCH":
            item.pop("current_password", None)  # comes with a new password of one's own, and then must
            item.pop("password", None)
        elif isinstance(item, dict) and index >= _PASSWORDS:
            item.pop("password", None)
        if isinstance(item, dict) and case.method in ("POST", "PATCH") and case.path != "/login":
            for field in NAMES.keys() & item:
                item[field] = allowed_name(field, item[field])


def allowed_name(field, text):
    """Return the text, or another in its place if it has characters that are rightly refused."""
    try:
        NAMES[field](text)
    except ValueError:
        return f"{field} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return text


@schemathesis.hook
def after_call(_context, case, response):
    """Note what may have ended the session, or removed what there is."""
    if case.method != "GET" and response.status_code < 400:
        Tester.token = None


@schemathesis.auth(refresh_interval=None)
class Tester:
    """Restores what there is, and signs in anew, after every request that has changed something."""

    token = None

    def __init__(self):
        self.database = psycopg.connect(os.environ["ATT_TESTS_DB_URL"], autocommit=True)

    def get(self, _case, _context):
        if Tester.token is None:
            token = secrets.token_urlsafe(32)
            with self.database.pipeline():
                self.restore(self.database.execute)
                self.database.execute(SIGN_IN, (uuid4(), hashlib.sha256(token.encode()).digest()))
            Tester.token = token
        return Tester.token

    def restore(self, execute):
        execute("INSERT INTO roles (id, name, name_key) VALUES (%s, 'Spare', 'spare') ON CONFLICT DO NOTHING", (ROLE,))
        execute(USER.format("login_key"), (uuid4(), "tester", "tester", os.environ["ATT_TESTS_ROLE"]))
        execute(USER.format("id"), (GUEST, GUEST, GUEST, "User"))
        execute("INSERT INTO groups (name, name_key) VALUES ('tea', 'tea') ON CONFLICT DO NOTHING")
        execute(MEMBER.format("login_key"), ("owner", "tester"))
        execute(MEMBER.format("id"), ("member", GUEST))
        execute(SIGN_IN, (SESSION, b"nobody has the token of this one"))

    def set(self, case, token, _context):
        case.headers["Authorization"] = f"Bearer {token}"
