"""Device cookies: a user who has signed in on a device may try passwords there, whoever guesses elsewhere.

See OWASP, "Slow Down Online Guessing Attacks with Device Cookies". The cookie holds a signed token for each login that
has signed in on the device. The key is in the database, so each server accepts the tokens of the others.
"""

import base64
import hmac
import re
import secrets

from sqlalchemy import bindparam, select

from att.core.names import fold
from att.core.precis import map_width
from att.db.engine import DriverError, Engine, prepare
from att.db.schema import signing_keys
from att.errors import CannotStart

DEVICE_LOGINS = 8  # of one device; the one that has not signed in for longest is dropped
_NONCE_BYTES = _SIGNATURE_BYTES = 15
_TOKEN_FORM = re.compile(r"[A-Za-z0-9_-]{40}")  # 30 bytes in base64url

_FIND_KEY = prepare(select(signing_keys.c.key).where(signing_keys.c.name == bindparam("name")))


class Devices:
    """Makes and reads device cookies."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    async def load(cls, db: Engine) -> "Devices":
        """Read the key. Raise CannotStart."""
        try:
            row = await db.fetch_one(_FIND_KEY, name="device")
        except DriverError as error:
            raise CannotStart(f"the database refuses: {error.diag.message_primary or 'no reason given'}") from error
        if row is None:
            raise CannotStart(
                "the table signing_keys has no key; run: INSERT INTO signing_keys (name) VALUES ('device')"
            )
        return cls(bytes(row[0]))

    def find(self, login: str, cookie: str) -> str | None:
        """Return the id of the device if the login has signed in on it, else None."""
        return next((token for token in _tokens(cookie) if self._is_of(login, token)), None)

    def add(self, login: str, cookie: str) -> str:
        """Return the cookie of a device on which this login has just signed in."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        token = base64.urlsafe_b64encode(nonce + self._sign(login, nonce)).decode()
        others = [other for other in _tokens(cookie) if not self._is_of(login, other)]
        return ".".join([token, *others][:DEVICE_LOGINS])

    def _is_of(self, login: str, token: str) -> bool:
        raw = base64.urlsafe_b64decode(token)
        return hmac.compare_digest(raw[_NONCE_BYTES:], self._sign(login, raw[:_NONCE_BYTES]))

    def _sign(self, login: str, nonce: bytes) -> bytes:
        return hmac.digest(self._key, nonce + fold(map_width(login)).encode(), "sha256")[:_SIGNATURE_BYTES]


def _tokens(cookie: str) -> list[str]:
    return [token for token in cookie.split(".")[:DEVICE_LOGINS] if _TOKEN_FORM.fullmatch(token)]
