"""Device cookies: signed, bound to a login, and of bounded length."""

import pytest
from hypothesis import given, strategies as st

from att.accounts.devices import DEVICE_LOGINS, Devices

KEY = b"k" * 32


@pytest.fixture
def devices():
    return Devices(KEY)


def test_a_device_is_known_to_its_login(devices):
    """The login that has signed in is found, in any case, also by another server with the key; others are not."""
    cookie = devices.add("Ann", "")
    assert devices.find("ann", cookie) == devices.find("ANN", cookie) == Devices(KEY).find("ann", cookie) is not None
    assert devices.find("bob", cookie) is None
    assert Devices(b"x" * 32).find("ann", cookie) is None
    assert devices.find("ann", devices.add("ann", "")) != devices.find("ann", cookie)


def test_many_logins(devices):
    """A device keeps its latest logins, each once."""
    cookie = ""
    for number in range(DEVICE_LOGINS + 1):
        cookie = devices.add(f"user {number}", cookie)
        cookie = devices.add(f"user {number}", cookie)
    known = [number for number in range(DEVICE_LOGINS + 1) if devices.find(f"user {number}", cookie)]
    assert known == list(range(1, DEVICE_LOGINS + 1))
    assert len(cookie) == 41 * DEVICE_LOGINS - 1


def test_tampering(devices):
    """No changed token is accepted."""
    cookie = devices.add("ann", "")
    for place, character in enumerate(cookie):
        other = "A" if character != "A" else "B"
        assert devices.find("ann", cookie[:place] + other + cookie[place + 1 :]) is None


@given(st.text(), st.text(min_size=1, max_size=64).filter(lambda text: text.isprintable()))
def test_any_cookie(cookie, login):
    """A forged or broken cookie is no error, and none of its characters come back."""
    devices = Devices(KEY)
    assert devices.find(login, cookie) is None
    assert len(devices.add(login, cookie)) == 40
