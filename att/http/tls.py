"""The server's certificate, read from files that may change while it serves."""

import logging
import ssl
from pathlib import Path

from att.errors import CannotStart

# As Mozilla's "intermediate" configuration: forward secrecy, and no CBC, whose padding was attacked again and again.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

log = logging.getLogger("att")


class Certificate:
    """A certificate chain and its key, both in PEM. Raises CannotStart when they cannot be used.

    ``context`` is for new connections: TLS 1.3, or TLS 1.2 with the ciphers of ``CIPHERS``.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self.context = self._load()

    def reload(self) -> None:
        """Read the files again. If they cannot be used, log that and keep the present certificate."""
        try:
            self.context = self._load()
        except CannotStart as error:
            log.error("keeping the present certificate: %s", error.detail)  # noqa: TRY400 - the detail is enough
        else:
            log.info("the certificate was reloaded")

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols(["http/1.1"])
        try:
            for path in (self._cert, self._key):
                path.read_bytes()  # the library does not name the file that it cannot read
            context.load_cert_chain(self._cert, self._key, password=_refuse_password)
        except ssl.SSLError as error:
            raise CannotStart(
                f"cannot use the certificate {self._cert} with the key {self._key}: {_why(error)}"
            ) from error
        except OSError as error:
            raise CannotStart(f"cannot read {error.filename}: {error.strerror}") from error
        return context


def _refuse_password() -> str:
    raise CannotStart("the key of --tls-key is encrypted; use one that is not, in a file that only this user can read")


def _why(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "they do not belong together"
    return "they must be PEM, a certificate in the one and its private key in the other"
