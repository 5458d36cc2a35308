"""Options that are read without a command line."""

from datetime import timedelta

import click
import pytest

from att.configuration import settings_from_environment
from att.settings import Address, LogFormat, Settings


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
    monkeypatch.setenv("ATT_ADMIN_LISTEN", "127.0.0.1:9100")
    monkeypatch.setenv("ATT_LOG_FORMAT", "JSON")
    monkeypatch.setenv("ATT_ACCESS_LOG", "true")
    assert settings_from_environment() == Settings(
        db_url="postgresql://me@localhost/mine",
        redis_url="redis://localhost:6379/0",
        allow_origin=frozenset({"https://a.example", "https://b.example"}),
        drain_time=timedelta(0),
        admin_listen=Address("127.0.0.1", 9100),
        log_format=LogFormat.JSON,
        access_log=True,
    )


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ATT_LISTEN", "nowhere", "has no port"),
        ("ATT_DRAIN_TIME", "2h", "an hour at most"),
        ("ATT_ADDRESS_CONNECTIONS", "0", "0"),
        ("ATT_TLS_CERT", "/x/cert.pem", "--tls-cert and --tls-key go together"),
        ("ATT_ADMIN_LOGIN", "root", "--admin-login and --admin-password go together"),
        ("ATT_REDIS_URL", "http://user:secret@host", "the URL is not understood"),
    ],
)
def test_what_is_wrong_is_told(monkeypatch, variable, value, message):
    """A value that cannot be is refused as on the command line, and a URL is not repeated."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(click.UsageError, match=message) as error:
        settings_from_environment()
    assert "secret" not in error.value.format_message()
