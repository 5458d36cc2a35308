"""The files of TLS: each way in which they do not serve is told, and what to do."""

from datetime import UTC, datetime

import pytest
from certificate_pairs import EXPIRED, EXPIRED_KEY, GOOD, GOOD_KEY, write_pair

from att.cli.doctor.checks import Level
from att.cli.doctor.tls import check_tls

ENCRYPTED_KEY = """\
-----BEGIN EC PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,57E0F389FF2E135B3A31135C1296C2CA

XlJlkAx2Myy6E8rS6EnvIM0pW5beNhzCseBwrkXmXpUwp38HhcWgfcJ+nb0aPRs1
9YH2FpjP4Zu/S6B3kRLuW5HYyNxGwXY0lj5gp7FfufcbhjV8SR+V5qnqIyzeHVHT
qigYf1w+nf7BifVMkKiLbOCSzcBAEphpvzk6Xx+0PNI=
-----END EC PRIVATE KEY-----
"""


def moment(*date):
    return datetime(*date, tzinfo=UTC).timestamp()


def test_a_pair_that_serves(tmp_path):
    verdict = check_tls(*write_pair(tmp_path))
    assert verdict == (Level.OK, "certificate and key match, until 2120-01-01", "")


def test_a_chain(tmp_path):
    """What stands below our own certificate in the file is not taken for it."""
    assert check_tls(*write_pair(tmp_path, GOOD + EXPIRED)).level is Level.OK
    assert check_tls(*write_pair(tmp_path, EXPIRED + GOOD, EXPIRED_KEY)).found.endswith("has expired on 2021-01-01")


@pytest.mark.parametrize(
    ("now", "level", "found"),
    [
        ((2019, 12, 31), Level.FAIL, "valid from 2020-01-01 on"),
        ((2020, 1, 1), Level.OK, "until 2021-01-01"),
        ((2020, 12, 17), Level.OK, "until 2021-01-01"),
        ((2020, 12, 19), Level.WARN, "expires on 2021-01-01"),
        ((2020, 12, 31), Level.WARN, "expires on 2021-01-01"),
        ((2021, 1, 1), Level.FAIL, "has expired on 2021-01-01"),
    ],
)
def test_its_time(tmp_path, now, level, found):
    """Two weeks are left to renew it."""
    verdict = check_tls(*write_pair(tmp_path, EXPIRED, EXPIRED_KEY), moment(*now))
    assert verdict.level is level
    assert found in verdict.found


@pytest.mark.parametrize(
    ("cert", "key", "found"),
    [
        (GOOD, EXPIRED_KEY, "is not the key of"),
        (GOOD, ENCRYPTED_KEY, "is encrypted"),
        (GOOD, "", "--tls-key"),
        ("hello", GOOD_KEY, "cert.pem: is not PEM"),
        (GOOD_KEY, GOOD_KEY, "cannot be used"),
        (GOOD, GOOD, "cannot be used"),
        (GOOD.replace("M", "N", 3), GOOD_KEY, "cannot be used"),
    ],
)
def test_files_that_do_not_serve(tmp_path, cert, key, found):
    """Each with what to do, and nothing of the key."""
    verdict = check_tls(*write_pair(tmp_path, cert, key))
    assert verdict.level is Level.FAIL
    assert found in verdict.found
    assert verdict.remedy
    assert not any(line in str(verdict) for line in filter(None, key.splitlines()))


def test_files_that_are_not_there(tmp_path):
    pair = write_pair(tmp_path)
    assert "no such file" in check_tls(pair.cert, tmp_path / "x").found
    assert "is a directory" in check_tls(tmp_path, pair.key).found


def test_a_key_that_everybody_can_read(tmp_path):
    pair = write_pair(tmp_path)
    pair.key.chmod(0o644)
    assert check_tls(*pair)[::2] == (Level.WARN, f"chmod o= {pair.key}")
