"""The table of events: what the database writes into it for any statement, and the notifications."""

import json
import threading
from uuid import UUID

import psycopg
import pytest

from att.db.migrate import bring_up_to_date

END = "end"


@pytest.fixture
def sql(postgresql):
    """Run SQL, as it is when there are no parameters; its rows, if it has any."""

    def run(query, *params):
        cursor = postgresql.execute(query, params or None)
        rows = cursor.fetchall() if cursor.description else None
        postgresql.commit()
        return rows

    return run


@pytest.fixture
def notified(db_url, sql):
    """Return the notifications since the last call."""
    with psycopg.connect(db_url, autocommit=True) as connection:
        connection.execute("LISTEN att")

        def read():
            sql(f"NOTIFY att, '{END}'")
            payloads = []
            for notification in connection.notifies(timeout=10):
                if notification.payload == END:
                    break
                assert len(notification.payload.encode()) < 8000
                payloads.append(json.loads(notification.payload))
                assert payloads[-1].pop("schema") == "public"
            else:
                raise AssertionError
            return payloads

        yield read


@pytest.fixture
def add_user(add_user):
    return lambda login: add_user(login).user_id


@pytest.fixture
def add_group(sql):
    """Make a group with these members; its id."""

    def add(name, *user_ids):
        group_id = sql("INSERT INTO groups (name, name_key) VALUES (%s, %s) RETURNING id", name, name)[0][0]
        join = "INSERT INTO members (group_id, user_id, role) SELECT %s, unnest(%s::uuid[]), 'member'"
        sql(join, group_id, list(user_ids))
        return group_id

    return add


@pytest.fixture
def people(add_user):
    return sorted(add_user(login) for login in ("ann", "bob", "zoe"))


@pytest.fixture
def written(sql):
    """Return a log above a seq, and check that the group's row has its head."""

    def read(group, above=0):
        rows = sql("SELECT seq, kind, actor_id FROM events WHERE group_id = %s ORDER BY seq", group)
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        head = sql("SELECT seq FROM groups WHERE id = %s", group)
        assert head in ([], [(len(rows),)])
        return [row[1:] for row in rows[above:]]

    return read


# Members


def test_joining_and_leaving(sql, people, add_group, written, notified):
    """Each row of a statement is an event; nodes are notified of heads and joinings."""
    ann, bob, zoe = people
    tea = add_group("tea")
    assert notified() == []
    sql("INSERT INTO members (group_id, user_id, role) SELECT %s, id, 'member' FROM users ORDER BY id", tea)
    assert written(tea) == [("joined", ann), ("joined", bob), ("joined", zoe)]
    joined = [[str(tea), place, str(user)] for place, user in enumerate(people, 1)]
    assert notified() == [{"groups": {str(tea): 3}, "joined": joined}]
    sql("DELETE FROM members WHERE user_id = ANY (%s)", [ann, zoe])
    assert sorted(written(tea, 3)) == sorted([("left", ann), ("left", zoe)])
    assert notified() == [{"groups": {str(tea): 5}}]


def test_copying_in(postgresql, people, add_group, written):
    """COPY is no way around it."""
    tea = add_group("tea")
    with postgresql.cursor().copy("COPY members (group_id, user_id, role) FROM STDIN") as copy:
        for user in people:
            copy.write_row((tea, user, "member"))
    postgresql.commit()
    assert written(tea) == [("joined", user) for user in people]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO members SELECT * FROM members ON CONFLICT DO NOTHING",
        "INSERT INTO members SELECT * FROM members ON CONFLICT (group_id, user_id) DO UPDATE SET role = 'member'",
        "UPDATE members SET role = 'member', joined_at = now()",
        "UPDATE members SET group_id = group_id, user_id = user_id",
        "UPDATE members SET role = 'owner' WHERE false",
        "DELETE FROM members WHERE false",
        "UPDATE groups SET name = name, post = 'members', created_at = now()",
    ],
)
def test_no_change(sql, people, add_group, written, notified, statement):
    """A statement that changes neither a membership nor what members see writes no event and notifies nobody."""
    tea = add_group("tea", *people)
    notified()
    sql(statement)
    assert len(written(tea)) == 3
    assert notified() == []


def test_moved_to_another_group(sql, people, add_group, written, notified):
    """A moved member leaves one group and joins the other; one who was there already stays."""
    ann, bob, zoe = people
    tea, coffee = add_group("tea", ann, bob), add_group("coffee", zoe)
    notified()
    sql("UPDATE members SET group_id = %s WHERE group_id = %s", coffee, tea)
    assert sorted(written(tea, 2)) == sorted([("left", ann), ("left", bob)])
    assert sorted(written(coffee, 1)) == sorted([("joined", ann), ("joined", bob)])
    (told,) = notified()
    assert told["groups"] == {str(tea): 4, str(coffee): 3}
    assert {(group, user) for group, _, user in told["joined"]} == {(str(coffee), str(user)) for user in (ann, bob)}


def test_replaced_by_another_user(sql, people, add_group, written):
    """Where one takes the place of another, the one has left before the other joins."""
    ann, bob, _ = people
    tea = add_group("tea", ann)
    sql("UPDATE members SET user_id = %s", bob)
    assert written(tea, 1) == [("left", ann), ("joined", bob)]


@pytest.fixture
def facts(sql):
    """Return kind and body of the last events of a log; those of others than messages are of nobody."""

    def read(group, count):
        query = "SELECT kind, body FROM events WHERE group_id = %s ORDER BY seq DESC LIMIT %s"
        return sql(query, group, count)[::-1]

    return read


AS = "SELECT set_config('att.actor_id', %s, false)"


def test_changes_of_roles(sql, people, add_group, facts, written, notified):
    """One statement that changes many roles writes an event for each that is another now, beside joins and leaves."""
    ann, bob, zoe = people
    tea, milk = add_group("tea", ann, bob), add_group("milk", ann)
    notified()
    sql(AS, str(zoe))
    sql("UPDATE members SET role = 'owner' WHERE user_id = %s", ann)
    for group in (tea, milk):
        assert facts(group, 1) == [("role", {"user": str(ann), "role": "owner", "by": str(zoe)})]
    assert notified() == [{"groups": {str(tea): 3, str(milk): 2}}]
    sql(AS, "")
    change = "UPDATE members SET role = 'member', user_id = CASE user_id WHEN %s THEN %s ELSE user_id END"
    sql(f"{change} WHERE group_id = %s", bob, zoe, tea)
    assert written(tea, 3) == [("left", bob), ("joined", zoe), ("role", None)]
    assert facts(tea, 1) == [("role", {"user": str(ann), "role": "member", "by": None})]


def test_changes_of_many_roles(sql, add_group, notified):
    """They are one statement and one notification, however many they are."""
    tea = add_group("tea")
    sql(ADD_MANY, 1000)
    sql(JOIN_ALL)
    notified()
    sql("UPDATE members SET role = 'owner'")
    assert notified() == [{"groups": {str(tea): 2000}}]
    assert sql("SELECT count(*), count(DISTINCT body ->> 'user') FROM events WHERE kind = 'role'") == [(1000, 1000)]


def test_changes_of_groups(sql, people, add_group, facts, written, notified):
    """Each group gets an event with its values as they are by it, in the order of the changes."""
    ann, bob, _ = people
    tea, milk = add_group("tea", ann), add_group("milk", bob)
    notified()
    sql("UPDATE groups SET retention = 7")
    rules = {"join": "invite", "post": "members", "retention": 7, "history": "since_join", "by": None}
    assert facts(tea, 1) == [("changed", {"name": "tea", **rules})]
    assert facts(milk, 1) == [("changed", {"name": "milk", **rules})]
    assert sorted(map(str, notified())) == sorted(map(str, ({"groups": {str(group): 2}} for group in (tea, milk))))
    sql(AS, str(ann))
    sql("UPDATE groups SET name = 'Té \"5\"', \"join\" = 'open' WHERE id = %s", tea)
    sql("UPDATE groups SET post = 'owners' WHERE id = %s", tea)
    after = rules | {"name": 'Té "5"', "join": "open", "by": str(ann)}
    assert facts(tea, 2) == [("changed", after), ("changed", after | {"post": "owners"})]
    assert written(tea, 1) == [("changed", None)] * 3


def test_who_has_removed_them(sql, people, add_group, facts):
    """A leaving says whether it was a removal, and by whom: of one member, of a group, or of an account."""
    ann, bob, zoe = people
    tea, milk, water = add_group("tea", ann, bob, zoe), add_group("milk", ann, bob), add_group("water", ann, bob)
    sql("DELETE FROM members WHERE group_id = %s AND user_id = %s", tea, zoe)
    assert facts(tea, 1) == [("left", {"removed": True, "by": None})]
    sql(AS, str(ann))
    sql("DELETE FROM members WHERE group_id = %s", tea)
    own, others = {"removed": False, "by": str(ann)}, {"removed": True, "by": str(ann)}
    bodies = dict(sql("SELECT actor_id, body FROM events WHERE kind = 'left' AND group_id = %s", tea))
    assert (bodies[ann], bodies[bob]) == (own, others)
    sql("DELETE FROM groups WHERE id = %s", milk)
    assert facts(milk, 2) == [("left", others)] * 2
    sql("DELETE FROM users WHERE id = %s", bob)
    assert facts(water, 1) == [("left", others)]


def test_a_rollback(postgresql, people, add_group, written, notified):
    """It leaves no event, and notifies nobody."""
    tea = add_group("tea", people[0])
    notified()
    postgresql.execute("DELETE FROM members")
    postgresql.execute("SELECT att_broadcast(%s, '{}')", (tea,))
    postgresql.rollback()
    assert written(tea) == [("joined", people[0])]
    assert notified() == []


ADD_MANY = """
INSERT INTO users (login, login_key, search_text, role_id)
SELECT 'user ' || n, 'user ' || n, '', (SELECT id FROM roles WHERE name = 'User') FROM generate_series(1, %s) AS n
"""
ADD_MANY_GROUPS = "INSERT INTO groups (name, name_key) SELECT 'g' || n, 'g' || n FROM generate_series(1, %s) AS n"
JOIN_ALL = "INSERT INTO members (group_id, user_id, role) SELECT groups.id, users.id, 'member' FROM groups, users"


def test_many(sql, add_group, notified):
    """Many joinings need several notifications; far too many are replaced by a sweep."""
    tea = str(add_group("tea"))
    sql(ADD_MANY, 1000)
    sql(JOIN_ALL)
    told = notified()
    assert all(news.keys() <= {"groups", "joined"} for news in told)
    assert [news["groups"] for news in told if "groups" in news] == [{tea: 1000}]
    assert sorted(seq for news in told for _, seq, _ in news["joined"]) == list(range(1, 1001))
    sql("DELETE FROM members")
    assert notified() == [{"groups": {tea: 2000}}]
    sql(ADD_MANY.replace("'user ", "'more "), 1)
    sql(JOIN_ALL)
    assert notified() == [{"sweep": True}]


def test_many_groups(sql, add_user, notified):
    """Neither does one who is in many groups make a notification too long."""
    sql("ALTER TABLE groups ALTER COLUMN seq SET DEFAULT 9000000000000000000")
    sql(ADD_MANY_GROUPS, 1000)
    ann = add_user("ann")
    sql(JOIN_ALL)
    told = notified()
    assert len({group for news in told for group, _, _ in news["joined"]}) == 1000
    heads = {group: seq for news in told for group, seq in news.get("groups", {}).items()}
    assert len(heads) == 1000
    assert set(heads.values()) == {9000000000000000001}
    sql(ADD_MANY_GROUPS.replace("'g'", "'h'"), 1)
    sql("INSERT INTO members SELECT id, %s, 'member' FROM groups WHERE name = 'h1'", ann)
    notified()
    sql("DELETE FROM users")
    assert notified() == [{"users": [str(ann)]}]  # who is in so many leaves them in batches
    sql("SELECT att_remove_members(%s, 1001)", ann)
    assert notified() == [{"sweep": True}]


# What goes with a user or a group


def test_deleted_users(sql, people, add_group, written, notified):
    """They leave their groups, in one go however many they are."""
    ann, bob, zoe = people
    tea, coffee = add_group("tea", ann, bob, zoe), add_group("coffee", ann)
    notified()
    sql("DELETE FROM users WHERE id <> %s", zoe)
    assert sorted(written(tea, 3)) == sorted([("left", ann), ("left", bob)])
    assert written(coffee, 1) == [("left", ann)]
    gone, heads = notified()
    assert sorted(gone.pop("users")) == sorted([str(ann), str(bob)])
    assert [gone, heads] == [{}, {"groups": {str(tea): 5, str(coffee): 2}}]


def test_a_deleted_group(sql, people, add_group, written, notified):
    """All its members leave it, once, and its log stays."""
    tea, coffee = add_group("tea", *people), add_group("coffee", *people)
    sql("SELECT att_broadcast(%s, '{}')", tea)
    notified()
    sql("DELETE FROM groups WHERE id = %s", tea)
    assert written(tea, 4) == [("left", user) for user in people]
    assert len(written(coffee)) == 3
    assert notified() == [{"groups": {str(tea): 7}}]
    sql("DELETE FROM users; DELETE FROM groups")
    assert len(written(tea)) == 7
    assert len(written(coffee)) == 6


def test_deleted_in_one_transaction(postgresql, people, add_group, written):
    """Members who are removed before their group is deleted leave it once, in that order."""
    tea = add_group("tea", *people)
    postgresql.execute("DELETE FROM members WHERE user_id = %s", (people[2],))
    postgresql.execute("DELETE FROM groups")
    postgresql.commit()
    assert written(tea, 3) == [("left", user) for user in (people[2], *people[:2])]


@pytest.mark.parametrize("table", ["users", "groups", "members", "events"])
def test_truncate(sql, people, add_group, written, table):
    """It is refused, since it would leave no events, with a hint at a better way."""
    tea = add_group("tea", *people)
    with pytest.raises(psycopg.errors.FeatureNotSupported, match=rf"TRUNCATE of {table} .* DELETE"):
        sql(f"TRUNCATE {table} CASCADE")
    sql("ROLLBACK")
    assert len(written(tea)) == 3


# Sessions


def test_ended_sessions(sql, people, notified):
    """Live sessions are announced whatever ends them, expired ones are not."""
    add = (
        "INSERT INTO sessions (token_hash, user_id, expires_at)"
        " VALUES (%s, %s, now() + make_interval(mins => %s)) RETURNING id"
    )
    owners = [(people[0], 5), (people[0], 5), (people[1], -5), (people[1], 5), (people[2], 5)]
    ids = [str(sql(add, bytes([place]), *owner)[0][0]) for place, owner in enumerate(owners)]
    sql("DELETE FROM sessions WHERE id = %s", ids[0])
    assert notified() == [{"sessions": [ids[0]]}]
    sql("DELETE FROM users WHERE id = ANY (%s)", people[:2])
    told = {name: sorted(ids) for news in notified() for name, ids in news.items()}
    assert told == {"sessions": sorted([ids[1], ids[3]]), "users": sorted(str(user) for user in people[:2])}
    sql("DELETE FROM sessions WHERE false")
    assert notified() == []
    sql(
        "INSERT INTO sessions (token_hash, user_id, expires_at)"
        " SELECT int4send(n), %s, now() + interval '1h' FROM generate_series(1, 499) AS n",
        people[2],
    )
    sql("DELETE FROM sessions")
    assert len({one for told in notified() for one in told["sessions"]}) == 500


# From SQL


def test_att_broadcast(sql, people, add_group, notified):
    """It appends the message as it is written, and returns the seq; a key counts once."""
    tea = add_group("tea", people[0])
    notified()
    assert sql("""SELECT att_broadcast(%s, '{"a": 1,  "a":2}')""", tea) == [(2,)]
    assert notified() == [{"groups": {str(tea): 2}}]
    send = "SELECT set_config('att.actor_id', %s, true), att_broadcast(%s, %s, 'k')"
    assert sql(send, str(people[1]), tea, "{}")[0][1] == 3
    assert sql(send, "", tea, "{}")[0][1] == 3
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="key belongs to another message"):
        sql(send, "", tea, '{"b": 3}')
    sql("ROLLBACK")
    assert sql("SELECT att_broadcast(group_id => %s, body => '{}', key => NULL)", tea) == [(4,)]
    assert [news["groups"][str(tea)] for news in notified()] == [3, 4]
    assert sql("SELECT seq, kind, actor_id, body::text, key FROM events WHERE seq > 1 ORDER BY seq") == [
        (2, "message", None, '{"a": 1,  "a":2}', None),
        (3, "message", people[1], "{}", "k"),
        (4, "message", None, "{}", None),
    ]
    assert sql("SELECT seq FROM groups") == [(4,)]


@pytest.mark.parametrize("body", ["[]", "1", "null", '"{}"', None])
def test_att_broadcast_of_no_object(sql, add_group, written, body):
    tea = add_group("tea")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="must be a JSON object"):
        sql("SELECT att_broadcast(%s, %s)", tea, body)
    sql("ROLLBACK")
    assert written(tea) == []


DEEPEST = '{"a":' + "[" * 199 + '"]"' + "]" * 199 + "}"


@pytest.mark.parametrize(
    ("body", "key", "reason"),
    [
        ('{"a":"' + "x" * 2**20 + '"}', None, "1 MiB"),
        ('{"a":' + "[" * 300 + "]" * 300 + "}", None, "deeply"),
        (r'{"a":"\ud800"}', None, "lone surrogate"),
        (r'{"\uDC00":1}', None, "lone surrogate"),
        (r'{"a":"\ude00\ud83d"}', None, "lone surrogate"),
        (r'{"a":"\ud83d\\\ude00"}', None, "lone surrogate"),
        ('{"a":[1,-' + "9" * 4301 + "]}", None, "4300 digits"),
        ("{}", "", "key"),
        ("{}", " k", "key"),
        ("{}", "é", "key"),
        ("{}", "k" * 201, "key"),
    ],
)
def test_att_broadcast_of_what_http_refuses(sql, add_group, written, body, key, reason):
    """SQL sends nothing that listeners could not take."""
    tea = add_group("tea")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=reason):
        sql("SELECT att_broadcast(%s, %s, %s)", tea, body, key)


def test_att_broadcast_of_what_is_just_right(sql, add_group):
    """Deep, but not too deep; brackets in strings are no depth, nor digits a number, nor all backslashes escapes."""
    tea = add_group("tea")
    bodies = [DEEPEST, '{"[[":"[{\\"[\\\\"}', '{"a":[[],{"b":[{}]}]}']
    bodies += [
        r'{"\ud83d\ude00":"\\ud800 \uD83D\uDE00\u0000"}',
        '{"a":"\\"' + "9" * 4301 + '","b":-' + "9" * 4300 + "}",
    ]
    for seq, body in enumerate(bodies, start=1):
        assert sql("SELECT att_broadcast(%s, %s, 'k' || %s)", tea, body, seq)[0][0] == seq


def test_att_broadcast_whatever_backslashes_mean(sql, add_group):
    """A session may have strings of old."""
    tea = add_group("tea")
    sql("SET standard_conforming_strings = off")
    assert sql("SELECT att_broadcast(%s, '{\"a\": [1]}')", tea) == [(1,)]


@pytest.mark.parametrize("group", [UUID(int=7), None])
def test_att_broadcast_to_nowhere(sql, group):
    with pytest.raises(psycopg.errors.NoDataFound, match="there is no group"):
        sql("SELECT att_broadcast(%s, '{}')", group)


def test_att_redact(sql, people, add_group, facts, written, notified):
    """It deletes the body and the text of it everywhere, and tells so by an event; nothing else can be redacted."""
    ann, bob, _ = people
    tea = add_group("tea", ann)
    sql(AS, str(ann))
    for key in ("k", None):
        sql("SELECT att_broadcast(%s, %s, %s)", tea, '{"secret": 1}', key)
    notified()
    sql(AS, str(bob))
    redact = "SELECT att_redact(%s, %s)"
    assert sql(redact, tea, 2) == [(4,)]
    assert notified() == [{"groups": {str(tea): 4}}]
    assert sql("SELECT seq, actor_id, key, body::text FROM events WHERE seq IN (2, 3) ORDER BY seq") == [
        (2, ann, "k", "null"),
        (3, ann, None, '{"secret": 1}'),
    ]
    assert facts(tea, 1) == [("redacted", {"of": 2, "by": str(bob)})]
    for group, seq in ((tea, 2), (tea, 1), (tea, 4), (tea, 5), (tea, 0), (bob, 1), (None, 3), (tea, None)):
        assert sql(redact, group, seq) == [(None,)]
    assert len(written(tea)) == 4
    assert notified() == []
    assert sql("SELECT att_broadcast(%s, '{\"other\": 1}', 'k')", tea) == [(2,)]
    sql(AS, "")
    assert sql(redact, tea, 3) == [(5,)]
    assert facts(tea, 1) == [("redacted", {"of": 3, "by": None})]
    assert sql("SELECT id FROM history WHERE concat(old, new) LIKE '%secret%'") == []


def test_redacted_at_once(sql, db_url, add_group, written):
    """Of two redactions at the same time one finds that there is nothing left to redact."""
    tea = add_group("tea")
    sql("SELECT att_broadcast(%s, '{}')", tea)
    redact = "SELECT att_redact(%s, 1)"
    with psycopg.connect(db_url) as first, psycopg.connect(db_url, autocommit=True) as second:
        assert first.execute(redact, (tea,)).fetchone() == (2,)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(second.execute(redact, (tea,)).fetchone()))
        thread.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
        while sql(waits, second.info.backend_pid) == [(0,)]:
            assert thread.is_alive()
        first.commit()
        thread.join()
    assert answers == [(None,)]
    assert written(tea) == [("message", None), ("redacted", None)]


def test_a_broadcast_is_no_history(sql, people, add_group):
    """The count of a group's events is not recorded; what is changed beside it is."""
    tea = add_group("tea", *people)
    query = "SELECT operation, new FROM history WHERE table_name = 'groups' AND operation <> 'INSERT'"
    sql("SELECT att_broadcast(%s, '{}')", tea)
    sql("DELETE FROM users")
    assert sql(query) == []
    sql("UPDATE groups SET seq = seq + 1, retention = 7")
    assert sql(query) == [("UPDATE", {"retention": 7})]


# Whose rights, and where


FUNCTIONS = {
    "att_append": "SELECT public.att_append('{}', '{}', '{}', '{}', '{}')",
    "att_redact": "SELECT public.att_redact(gen_random_uuid(), 1)",
    "att_broadcast": "SELECT public.att_broadcast(gen_random_uuid(), '{}')",
    "att_log_changes": "SELECT public.att_log_changes('{}', '{}', '{}')",
}


@pytest.fixture
def guest(sql, db_url):
    """A connection of a database role that owns nothing."""
    sql("CREATE ROLE att_guest LOGIN")
    with psycopg.connect(db_url.replace("postgres@", "att_guest@"), autocommit=True) as connection:
        yield connection
    sql("DROP OWNED BY att_guest")
    sql("DROP ROLE att_guest")


def test_rights(sql, people, add_group, written, guest):
    """Nobody may append or broadcast unasked; who may broadcast, or change members, needs no other right."""
    tea = add_group("tea", people[0])
    for call in FUNCTIONS.values():
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            guest.execute(call)
    sql("GRANT EXECUTE ON FUNCTION att_broadcast TO att_guest; GRANT INSERT, DELETE, SELECT ON members TO att_guest")
    assert guest.execute("SELECT att_broadcast(%s, '{}')", (tea,)).fetchall() == [(2,)]
    guest.execute("DELETE FROM members")
    assert written(tea, 1) == [("message", None), ("left", people[0])]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        guest.execute("SELECT FROM events")


@pytest.mark.parametrize("function", ["att_log_members", "att_log_deletion", "att_log_changed", "att_notify_sessions"])
def test_triggers_are_not_for_borrowing(sql, guest, function):
    """On a table of their own nobody can use them to write into a log what they like."""
    guest.execute("CREATE TABLE pg_temp.members (id uuid)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=function):
        guest.execute(
            f"CREATE TRIGGER x BEFORE DELETE ON pg_temp.members FOR EACH ROW EXECUTE FUNCTION public.{function}()"
        )


def test_out_of_reach(sql, people, add_group, written):
    """Neither temporary tables nor what a search path finds comes between a change and the log."""
    tea = add_group("tea", people[0])
    for table in ("events", "groups", "members"):
        sql(f"CREATE TEMPORARY TABLE {table} (LIKE public.{table} INCLUDING ALL)")
    sql("CREATE SCHEMA astray")
    sql(
        "CREATE FUNCTION astray.jsonb_build_object(text, jsonb) RETURNS jsonb LANGUAGE plpgsql"
        " AS 'BEGIN RAISE EXCEPTION ''astray''; END'"
    )
    sql("SET search_path = pg_temp, astray, pg_catalog")
    sql("INSERT INTO public.members (group_id, user_id, role) VALUES (%s, %s, 'member')", tea, people[1])
    sql("SELECT public.att_broadcast(%s, '{}')", tea)
    sql("SELECT public.att_redact(%s, 3)", tea)
    sql("UPDATE public.groups SET name = 'milk'")
    sql("UPDATE public.members SET role = 'owner'")
    sql("DELETE FROM public.groups WHERE id = %s", tea)
    assert sql("SELECT * FROM pg_temp.events") == []
    sql("DISCARD TEMPORARY; SET search_path = public")
    assert len(written(tea)) == 9


def test_in_any_schema(empty_db_url, empty_postgresql):
    """The functions use the tables beside them, whatever the schema of the migrations is called."""
    schema = """"My ""own""'s\""""
    empty_postgresql.execute(f"CREATE SCHEMA {schema}")
    empty_postgresql.execute(f"ALTER DATABASE {empty_postgresql.info.dbname} SET search_path = {schema}")
    empty_postgresql.commit()
    bring_up_to_date(empty_db_url, migrate=True)
    with psycopg.connect(empty_db_url, autocommit=True) as connection:
        for statement, count in ((ADD_MANY, 2), (ADD_MANY_GROUPS, 1)):
            connection.execute(statement, (count,))
        connection.execute(JOIN_ALL)
        group, user = connection.execute("SELECT group_id, user_id FROM members").fetchone()
        connection.execute("SET search_path = public")
        append = f"SELECT refusal, seq FROM {schema}.att_append(%s, NULL, %s, %s, NULL)"
        assert connection.execute(append, ([group], [user], ["{}"])).fetchall() == [(None, 3)]
        assert connection.execute(f"SELECT {schema}.att_broadcast(%s, '{{}}')", (group,)).fetchone() == (4,)
        connection.execute(f"SELECT {schema}.att_redact(%s, 4)", (group,))
        connection.execute(f"UPDATE {schema}.groups SET name = 'milk'")
        connection.execute(f"DELETE FROM {schema}.groups")
        assert connection.execute(f"SELECT count(*) FROM {schema}.events").fetchone() == (8,)


# At once


def test_no_deadlock(sql, db_url, add_group):
    """Appends to many groups, members who come and go in all of them, and users who are deleted, never meet one."""
    sql(ADD_MANY, 30)
    users = [row[0] for row in sql("SELECT id FROM users ORDER BY random()")]
    sql(ADD_MANY_GROUPS, 12)
    groups = [row[0] for row in sql("SELECT id FROM groups ORDER BY random()")]
    sql(JOIN_ALL)
    everyone = "INSERT INTO members SELECT id, %s, 'member' FROM groups ORDER BY name_key {} ON CONFLICT DO NOTHING"
    append = "SELECT refusal FROM att_append(%s, NULL, %s, %s, NULL)"
    works = [
        [(append, (groups, users[:1] * 12, ["{}"] * 12))] * 60,
        [(append, (groups[::-1], users[:1] * 12, ["{}"] * 12))] * 60,
        [("DELETE FROM members WHERE user_id = %s", users[1:2]), (everyone.format("ASC"), users[1:2])] * 20,
        [("DELETE FROM members WHERE user_id = %s", users[2:3]), (everyone.format("DESC"), users[2:3])] * 20,
        [("SELECT FROM groups WHERE id = %s FOR NO KEY UPDATE", (group,)) for group in groups] * 5,
        [("DELETE FROM users WHERE id = ANY (%s)", [users[place : place + 3]]) for place in range(3, 30, 3)],
    ]
    problems = []
    threads = [threading.Thread(target=_work, args=(db_url, work, problems)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    for group in groups:
        rows = sql("SELECT seq, kind, actor_id FROM events WHERE group_id = %s ORDER BY seq", group)
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        assert sum(row[1] == "message" for row in rows) == 120
        _check_turns(rows)


def _work(db_url, statements, problems):
    with psycopg.connect(db_url, autocommit=True) as connection:
        for statement, params in statements:
            try:
                connection.execute(statement, params)
            except psycopg.Error as error:
                problems.append(error)


def _check_turns(rows):
    """Check that joined users were out, and left ones were in."""
    inside = set()
    for _, kind, user in rows:
        if kind != "message":
            assert (user in inside) is (kind == "left")
            inside ^= {user}


def test_retention(sql, add_group):
    """A number of events that makes no sense is refused."""
    add_group("tea")
    for value in (-1, 1_000_001):
        with pytest.raises(psycopg.errors.CheckViolation, match="ck_groups_retention"):
            sql(f"UPDATE groups SET retention = {value}")
        sql("ROLLBACK")
