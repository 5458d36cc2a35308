"""The TLS certificate: valid and invalid files, and reloading."""

import logging
import shutil
import ssl
from pathlib import Path

import pytest

from att.errors import CannotStart
from att.http.tls import Certificate

FILES = Path(__file__).parents[1] / "certificates"


@pytest.fixture
def files(tmp_path):
    """A certificate and its key in files that a test may change."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(FILES / "one.pem", cert)
    shutil.copy(FILES / "one.key", key)
    return cert, key


def test_protocols(files):
    """The context allows TLS 1.2 or later, with forward secrecy and without CBC."""
    context = Certificate(*files).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE
    ciphers = context.get_ciphers()
    assert {cipher["protocol"] for cipher in ciphers} == {"TLSv1.3", "TLSv1.2"}
    assert all(cipher["aead"] for cipher in ciphers)
    assert all(cipher["kea"] in ("kx-any", "kx-ecdhe") for cipher in ciphers)


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("none.pem", "one.key", "cannot read .*none.pem: No such file or directory"),
        ("one.pem", "none.key", "cannot read .*none.key: No such file or directory"),
        ("one.pem", ".", "cannot read .*: Is a directory"),
        ("one.pem", "two.key", "they do not belong together"),
        ("one.pem", "one.pem", "they must be PEM"),
        ("one.key", "one.key", "they must be PEM"),
        ("make.sh", "one.key", "they must be PEM"),
        ("one.pem", "encrypted.key", "is encrypted"),
    ],
)
def test_invalid_files(cert, key, message):
    """The error is one line with the file and its fault, and no password is asked for."""
    with pytest.raises(CannotStart, match=message) as error:
        Certificate(FILES / cert, FILES / key)
    assert "\n" not in error.value.detail


def test_reload(files, caplog):
    """New connections use the present files."""
    caplog.set_level(logging.INFO)
    certificate = Certificate(*files)
    before = certificate.context
    shutil.copy(FILES / "two.pem", files[0])
    shutil.copy(FILES / "two.key", files[1])
    certificate.reload()
    assert certificate.context is not before
    assert [record.message for record in caplog.records] == ["the certificate was reloaded"]


@pytest.mark.parametrize("spoil", [lambda cert: cert.write_text("nothing"), Path.unlink])
def test_reload_of_invalid_files(files, caplog, spoil):
    """The present certificate stays, and the log says why."""
    certificate = Certificate(*files)
    before = certificate.context
    spoil(files[0])
    certificate.reload()
    assert certificate.context is before
    [record] = caplog.records
    assert record.message.startswith("keeping the present certificate: cannot ")
