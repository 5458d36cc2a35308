"""``att-server why``: what it prints for people and for programs, and each error in one line."""

import json
import re
from functools import partial
from uuid import uuid4

import pytest

from att.db.dsn import describe

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
READ = "what was logged while they were members"
IN_POSTGRESQL = "in PostgreSQL; if the servers have a --redis-url, give it here too"
ADD = "INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')"


@pytest.fixture
def run(run_here, db_url):
    """Run it on the test's database."""
    return partial(run_here, "--db-url", db_url, "why")


@pytest.fixture
def said(run):
    """The lines that are printed, with times as T."""

    def go(*arguments, **environment):
        result = run(*arguments, **environment)
        assert (result.returncode, result.stderr) == (0, "")
        return re.sub(TIME, "T", result.stdout).splitlines()

    return go


@pytest.fixture
def connect(sql):
    """Have somebody be connected to a server."""

    def go(user_id):
        node = uuid4()
        sql("INSERT INTO nodes (id, name) VALUES (%s, 'one:1')", node)
        sql("INSERT INTO presence VALUES (%s, %s, now(), 2)", node, user_id)

    return go


def test_a_member(said, connect, ann_id, tea, add_user, sql):
    """The first line is the answer; then come the user, the group, the membership, the log, sockets and sessions."""
    ben_id = add_user("ben").user_id
    sql(
        "WITH actor AS (SELECT set_config('att.actor_id', %s, true))"
        " INSERT INTO members (group_id, user_id, role) SELECT %s, %s, 'member' FROM actor",
        str(ann_id),
        tea,
        ben_id,
    )
    session = "INSERT INTO sessions (token_hash, user_id, expires_at) VALUES ('x', %s, now() + interval '1 hour')"
    sql(session, ben_id)
    connect(ben_id)
    assert said("ben", "tea") == [
        "ben is a member of tea, and receives its events",
        f"user: ben, {ben_id}, active",
        f"group: tea, {tea}",
        f"membership: member since T, by ann ({ann_id})",
        f"  T joined as member, seq 2, by ann ({ann_id})",
        f"log: ends with seq 2 at T; kept from seq 1 on, at most 1000 events; members read {READ}",
        "sockets: 2",
        "  2 on one:1 since T",
        f"sessions: 1 {IN_POSTGRESQL}",
    ]


def test_a_former_member(said, ann_id, tea, sql):
    """Whoever is no member any more hears nothing; by whom is told, SQL by its database role."""
    sql("UPDATE members SET role = 'member'")
    sql("DELETE FROM members")
    lines = said(str(ann_id), str(tea))
    assert lines[0] == "ann is not a member of tea, and receives nothing from it"
    assert lines[3:7] == [
        "membership: none",
        "  T left, seq 3, by the database role postgres",
        "  T became member, by the database role postgres",
        "  T joined as owner, seq 1, by the database role postgres",
    ]
    assert lines[-2:] == ["sockets: none", f"sessions: none {IN_POSTGRESQL}"]


def test_a_member_who_is_not_connected(said, tea):
    assert (
        said("ANN", "TEA")[0]
        == "ann is a member of tea, but has no open socket, and receives its events after the next connect and resume"
    )


def test_a_member_who_is_disabled(said, tea, connect, ann_id, sql):
    """It is told though a socket may be about to be closed."""
    connect(ann_id)
    sql("UPDATE users SET active = false")
    lines = said("ann", "tea")
    assert lines[0] == "ann is a member of tea, but is disabled, and cannot sign in"
    assert lines[1] == f"user: ann, {ann_id}, disabled, and cannot sign in"


def test_what_is_not_kept(said, tea, ann_id, sql):
    """A log without events, a membership without history, one who made themselves a member, one who is gone."""
    sql("UPDATE groups SET history = 'all'")
    assert any(line.endswith("; members read all of it") for line in said("ann", "tea"))
    sql("UPDATE groups SET history = 'since_join'")
    sql("DELETE FROM events")
    lines = said("ann", "tea")
    assert f"log: ends with seq 3; no event is kept, at most 1000 events; members read {READ}" in lines
    sql("UPDATE history SET actor_id = user_id")
    assert any(re.fullmatch("membership: owner since T, by themselves", line) for line in said("ann", "tea"))
    gone = uuid4()
    sql("UPDATE history SET actor_id = %s", gone)
    assert f"membership: owner since T, by a deleted account ({gone})" in said("ann", "tea")
    sql("DELETE FROM history")
    assert "membership: owner since T, by whom is not recorded" in said("ann", "tea")
    sql("INSERT INTO groups (name, name_key) VALUES ('new', 'new')")
    assert "log: empty" in said("ann", "new")


def test_json(run, connect, ann_id, tea):
    """One object with all of it, for programs."""
    connect(ann_id)
    result = run("ann", "tea", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    actor = {"user_id": None, "login": None, "database_role": "postgres"}
    found = json.loads(re.sub(TIME, "T", result.stdout))
    assert found == {
        "user": {"id": str(ann_id), "login": "ann", "active": True},
        "group": {
            "id": str(tea),
            "name": "tea",
            "seq": 1,
            "retention": 1000,
            "history": "since_join",
            "at": "T",
            "oldest": 1,
        },
        "membership": {"role": "owner", "since": "T", "by": actor},
        "steps": [{"at": "T", "kind": "joined", "role": "owner", "seq": 1, "by": actor}],
        "sockets": [{"node": "one:1", "since": "T", "sockets": 2}],
        "sessions": 0,
    }


def test_sessions_in_redis(run, said, tea):
    """Where sessions are kept elsewhere it is said, and not that there are none."""
    environment = {"ATT_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert said("ann", "tea", **environment)[-1] == "sessions: kept in Redis"
    assert json.loads(run("ann", "tea", "--json", **environment).stdout)["sessions"] is None


def test_the_option_for_redis(said, tea):
    """As of the other commands."""
    assert said("ann", "tea", "--redis-url", "redis://127.0.0.1:1/0")[-1] == "sessions: kept in Redis"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nobody", "tea"], 1, "no user with the login or id 'nobody'"),
        (["ann", "coffee"], 1, "no group with the name or id 'coffee'"),
        (["ann", "00000000-0000-4000-8000-000000000009"], 1, "no group with the name or id"),
        (["ann", "tea", "--redis-url", "http://x"], 2, "the URL is not understood"),
        (["ann"], 2, "Missing argument 'GROUP'"),
        (["ann", "x" * 65], 2, "must have 1 to 64 characters"),
        (["a\nb", "tea"], 2, "must not contain control characters"),
        (["ann", "tea", "--db-url", "host=/no/such/dir dbname=db"], 1, "cannot connect to the database db"),
    ],
)
def test_errors(run, tea, arguments, status, says):
    """Each is one line."""
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert says in result.stderr
    assert result.stderr.startswith("att-server: ")
    assert result.stderr.count("\n") == 1


def test_a_user_or_group_that_is_not_there(run, tea, db_url):
    """The line names the database that was asked, which may be another than was meant."""
    for arguments, what in ((["ben", "tea"], "user with the login or id 'ben'"), (["ann", "x"], "group with the name")):
        complaint = run(*arguments).stderr
        assert what in complaint
        assert complaint.endswith(f" in {describe(db_url)}\n")
