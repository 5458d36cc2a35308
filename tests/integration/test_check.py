"""The command `att-server check`: what it prints, in which order, and with which status it ends."""

import json
import socket
import sys

import pytest
from certificate_pairs import EXPIRED_KEY, write_pair

from att.cli.doctor import check as module
from att.cli.doctor.checks import Level

DATABASE = [
    "database",
    "database rights",
    "schema",
    "log",
    "listen and notify",
    "durability",
    "connections",
    "database clock",
]


@pytest.fixture
def run(monkeypatch, run_here):
    """Run it, with no database but the one that is given."""
    monkeypatch.delenv("ATT_DB_URL", raising=False)
    return run_here


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def names(result):
    """Which checks were made, of a result in JSON."""
    return [finding["name"] for finding in json.loads(result.stdout)["checks"]]


def test_all_is_well(run, db_url, port):
    """A line for each check, and the status 0, also when there is a warning."""
    result = run("check", "--db-url", db_url, "--listen", port)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line[6:26].strip() for line in lines] == [*DATABASE, "open files", "--listen"]
    assert {line[:4].strip() for line in lines} <= {"ok", "warn"}
    assert any(line.startswith("warn  durability") for line in lines)  # the server of the tests


def test_something_fails(run, db_url, port, tmp_path):
    """The status is 1, and all the others are looked at."""
    pair = write_pair(tmp_path, key=EXPIRED_KEY)
    tls = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
    result = run("check", "--db-url", db_url, "--listen", port, "--admin-listen", "192.0.2.1:1", *tls)
    assert (result.returncode, result.stderr) == (1, "")
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert [line.split()[1] for line in failed] == ["TLS", "--admin-listen"]
    assert "is not the key of" in failed[0]
    assert "--listen " in result.stdout


def test_json(run, db_url, port):
    """One object with the same findings."""
    result = run("check", "--json", "--db-url", db_url, "--listen", port)
    assert (result.returncode, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert told["ok"] is True
    assert names(result) == [*DATABASE, "open files", "--listen"]
    assert {frozenset(finding) for finding in told["checks"]} == {frozenset({"name", "level", "found", "remedy"})}
    assert {finding["level"] for finding in told["checks"]} <= {*Level}
    broken = run("check", "--json", "--db-url", "host=/no/such/dir dbname=db", "--listen", port)
    assert broken.returncode == 1
    assert json.loads(broken.stdout)["ok"] is False
    assert names(broken) == ["database", "open files", "--listen"]


def test_options_before_and_after(run, db_url, port):
    """And in the environment; those nearest to the command count."""
    nowhere = "host=/no/such/dir dbname=db"
    for arguments, environment in [
        (["--db-url", nowhere, "check", "--db-url", db_url], {}),
        (["--db-url", db_url, "check"], {"ATT_DB_URL": nowhere}),
        (["check"], {"ATT_DB_URL": db_url}),
    ]:
        assert run("--listen", port, *arguments, **environment).returncode == 0, arguments


def test_options_that_are_wrong(run):
    """Told as by the server itself."""
    for arguments, words in [
        (["check", "--listen", "nowhere"], "has no port"),
        (["check", "--tls-cert", "/x"], "--tls-cert and --tls-key go together"),
        (["check", "--redis-url", "http://me:hush@x"], "the URL is not understood"),
        (["check", "more"], "unexpected extra argument"),
    ]:
        result = run(*arguments)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert words in result.stderr
        assert "hush" not in result.stderr


def test_the_embedded_postgres_before_its_first_start(run, port, tmp_path):
    """Nothing is made or started by looking."""
    result = run("check", "--json", "--data-dir", str(tmp_path / "data"), "--listen", port)
    assert result.returncode == 0
    assert names(result) == ["data directory", "database", "open files", "--listen"]
    assert "is started with a server" in result.stdout
    assert [*tmp_path.iterdir()] == []


def test_an_embedded_postgres_that_cannot_start(run, port, tmp_path):
    """No finding says that a server starts it."""
    (tmp_path / "data").touch()
    result = run("check", "--json", "--data-dir", str(tmp_path / "data"), "--listen", port)
    assert result.returncode == 1
    assert names(result) == ["data directory", "open files", "--listen"]


def test_the_embedded_postgres_that_runs(run, port, embedded):
    """It is looked into; that it is behind is mended by the next start, and fails nothing."""
    result = run("check", "--json", "--data-dir", str(embedded.data_dir), "--listen", port)
    assert names(result) == ["data directory", *DATABASE, "open files", "--listen"]
    schema = json.loads(result.stdout)["checks"][3]
    assert (result.returncode, schema["level"], schema["remedy"]) == (
        0,
        "warn",
        "a server brings it up to date when it starts",
    )


def test_the_library_for_redis_not_installed(run, db_url, port, monkeypatch):
    """As after `pip install att-server` without the extra."""
    monkeypatch.setitem(sys.modules, "att.cli.doctor.redis", None)
    result = run("check", "--json", "--db-url", db_url, "--listen", port, "--redis-url", "redis://localhost")
    assert result.returncode == 1
    assert names(result) == [*DATABASE, "Redis", "open files", "--listen"]
    assert "pip install 'att-server[redis]'" in result.stdout


def test_it_reports_as_it_goes(run, db_url, port, monkeypatch):
    """What takes long does not hold back what is known."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "check_open_files", interrupted)
    monkeypatch.setattr(module, "_in_thread", lambda check, *_: check)
    result = run("check", "--db-url", db_url, "--listen", port)
    assert (result.returncode, result.stderr.strip()) == (130, "att-server: interrupted")
    assert result.stdout.count("\n") == len(DATABASE)


def test_help(run):
    printed = run("check", "--help").stdout
    for word in ("--db-url", "--redis-url", "--tls-cert", "--json", "FAIL", "Nothing is changed"):
        assert word in printed
