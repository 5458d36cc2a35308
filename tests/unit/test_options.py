"""Options that are read without a command line."""

from datetime import timedelta

import click
import pytest

from att.config.options import _OPTIONS, override, overriding_options, settings_from_environment
from att.config.settings import ListenAddress, LogFormat, Rate, Settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    monkeypatch.delenv("ATT_DB_URL", raising=False)


def test_settings_from_an_empty_environment():
    """Without variables they are what the command chooses by itself."""
    assert settings_from_environment() == Settings()


def test_settings_from_the_environment(monkeypatch):
    """Each option has its variable, read as on the command line."""
    monkeypatch.setenv("ATT_DB_URL", "postgresql://me@localhost/mine")
    monkeypatch.setenv("ATT_REDIS_URL", "redis://localhost:6379/0")
    monkeypatch.setenv("ATT_ALLOW_ORIGIN", "https://a.example https://b.example")
    monkeypatch.setenv("ATT_DRAIN_TIME", "0s")
    monkeypatch.setenv("ATT_MEMORY_BUDGET", "128MiB")
    monkeypatch.setenv("ATT_ADMIN_LISTEN", "127.0.0.1:9100")
    monkeypatch.setenv("ATT_LOG_FORMAT", "JSON")
    monkeypatch.setenv("ATT_ACCESS_LOG", "true")
    monkeypatch.setenv("ATT_COMPRESS", "off")
    monkeypatch.setenv("ATT_QUOTA_MEMBERS", "unlimited")
    monkeypatch.setenv("ATT_QUOTA_BROADCASTS", "10/1s")
    assert settings_from_environment() == Settings(
        db_url="postgresql://me@localhost/mine",
        redis_url="redis://localhost:6379/0",
        allow_origin=frozenset({"https://a.example", "https://b.example"}),
        drain_time=timedelta(0),
        memory_budget=128 * 1024**2,
        admin_listen=ListenAddress("127.0.0.1", 9100),
        log_format=LogFormat.JSON,
        access_log=True,
        compress=False,
        quota_members=None,
        quota_broadcasts=Rate(10, timedelta(seconds=1)),
    )


def test_newline_at_the_end(monkeypatch):
    """A value that was read from a file may end with a newline; nobody could type one in a password."""
    monkeypatch.setenv("ATT_DB_URL", "postgresql://me@localhost/mine\n")
    monkeypatch.setenv("ATT_REDIS_URL", "redis://localhost\r\n")
    monkeypatch.setenv("ATT_LISTEN", ":80\n")
    monkeypatch.setenv("ATT_ADMIN_LOGIN", "root\n")
    monkeypatch.setenv("ATT_ADMIN_PASSWORD", "correct horse\n")
    assert settings_from_environment() == Settings(
        db_url="postgresql://me@localhost/mine",
        redis_url="redis://localhost",
        listen=ListenAddress(None, 80),
        admin_login="root",
        admin_password="correct horse",
    )


def test_another_program_has_its_own_address(monkeypatch):
    """Ours is not listened at there, and may be that of the figures."""
    monkeypatch.setenv("ATT_ADMIN_LISTEN", str(Settings().listen))
    assert settings_from_environment().admin_listen == Settings().listen


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ATT_LISTEN", "nowhere", "has no port"),
        ("ATT_DRAIN_TIME", "2h", "an hour at most"),
        ("ATT_ADDRESS_CONNECTIONS", "0", "0"),
        ("ATT_MEMORY_BUDGET", "1MiB", "16MiB at least"),
        ("ATT_QUOTA_MEMBERS", "0", "or the word unlimited"),
        ("ATT_TLS_CERT", "/x/cert.pem", "--tls-cert and --tls-key go together"),
        ("ATT_ADMIN_LOGIN", "root", "--admin-login and --admin-password go together"),
        ("ATT_REDIS_URL", "http://user:secret@host", "the URL is not understood"),
    ],
)
def test_errors_say_what_is_wrong(monkeypatch, variable, value, message):
    """A value that cannot be is refused as on the command line, and a URL is not repeated."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(click.UsageError, match=message) as error:
        settings_from_environment()
    assert "secret" not in error.value.format_message()


SECRETS = {
    "db-url": "postgresql://me:secret@localhost/mine",
    "redis-url": "redis://me:secret@localhost:6379/0",
    "admin-password": "the secret word",
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_secrets_in_files(monkeypatch, tmp_path, name, end):
    """A file has the value, with or without a line break at its end; the variable of the file names it."""
    monkeypatch.setenv("ATT_ADMIN_LOGIN", "root")
    monkeypatch.setenv("ATT_ADMIN_PASSWORD_FILE", str(tmp_path / "admin-password"))
    for secret in {name, "admin-password"}:
        (tmp_path / secret).write_bytes(f"{SECRETS[secret]}{end}".encode())
    variable = f"ATT_{name.replace('-', '_').upper()}"
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / name))
    assert getattr(settings_from_environment(), name.replace("-", "_")) == SECRETS[name]
    monkeypatch.setenv(variable, SECRETS[name])
    with pytest.raises(click.UsageError, match=f"--{name} and --{name}-file exclude each other"):
        settings_from_environment()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*: No such file"),
        (b"\xff", "is no text in UTF-8"),
        (b"http://me:secret@localhost/", "not understood"),
        (b"", "not understood"),
    ],
)
def test_files_without_a_usable_secret(monkeypatch, tmp_path, content, message):
    """The error names the option and the file, and does not repeat what is in the file."""
    path = tmp_path / "url"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("ATT_DB_URL_FILE", str(path))
    with pytest.raises(click.UsageError, match=message) as error:
        settings_from_environment()
    assert "secret" not in error.value.format_message()


def test_a_sub_command_takes_the_same_options(monkeypatch):
    """All of them, in their order; none has a value of its own, nor one from the environment."""
    monkeypatch.setenv("ATT_CHECK_LISTEN", "127.0.0.1:1")
    options = overriding_options()
    assert len(options) == len(_OPTIONS)
    assert [option.name for option in options][:2] == ["listen", "db_url"]
    command = click.Command("check", params=options, context_settings={"auto_envvar_prefix": "ATT_CHECK"})
    assert all(value in (None, ()) for value in command.make_context("check", []).params.values())


def test_what_is_given_last_counts():
    """The rest stays; a flag that is not given is not taken back."""
    settings = Settings(access_log=True, listen=ListenAddress(None, 1), trust_proxy=frozenset({"unix"}))
    given = {option.name: None for option in overriding_options()} | {"allow_origin": (), "trust_proxy": ()}
    assert override(settings, **given) == settings
    chosen = override(settings, **given | {"listen": ListenAddress(None, 2), "allow_origin": ("https://a.example",)})
    assert chosen == Settings(
        access_log=True,
        listen=ListenAddress(None, 2),
        trust_proxy=frozenset({"unix"}),
        allow_origin=frozenset({"https://a.example"}),
    )


def test_options_that_do_not_go_together_after_a_command():
    with pytest.raises(click.UsageError, match="--tls-cert and --tls-key go together"):
        override(Settings(), tls_cert="/x")
