"""Check of --tls-cert and --tls-key: both are read, and tried in a handshake."""

import ssl
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from att.cli.doctor.checks import Verdict, fail, ok, warn

SOON = 14 * 86_400  # seconds before its end in which a certificate should be renewed
NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME: we check the time ourselves, and name the date


class Validity(NamedTuple):
    """Validity of a certificate, in seconds since 1970."""

    begins: float
    ends: float


def check_tls(cert: Path, key: Path, now: float | None = None) -> Verdict:
    """Return the verdict on the two files."""
    for path, option in ((cert, "--tls-cert"), (key, "--tls-key")):
        if problem := _unreadable(path):
            return fail(f"{option} {path}: {problem}", "give a PEM file that this user may read")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(cert, key, password="")  # or OpenSSL would ask the terminal for one
    except ssl.SSLError as error:
        return _not_loaded(cert, key, error)
    try:
        validity = _shake_hands(server, cert)
    except ssl.SSLError as error:
        return fail(f"a client refuses {cert}: {_reason(error)}", "get a certificate for a TLS server")
    return _judge(validity, key, time.time() if now is None else now)


def _unreadable(path: Path) -> str | None:
    try:
        text = path.read_bytes()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None if b"-----BEGIN " in text else "is not PEM"


def _not_loaded(cert: Path, key: Path, error: ssl.SSLError) -> Verdict:
    if error.reason == "KEY_VALUES_MISMATCH":
        return fail(f"{key} is not the key of {cert}", "give the key with which the certificate was requested")
    if b"ENCRYPTED" in key.read_bytes():
        return fail(f"{key} is encrypted", "write it without a passphrase, readable by the server's user alone")
    return fail(f"{cert} and {key} cannot be used: {_reason(error)}", "give files in PEM, our own certificate first")


def _reason(error: ssl.SSLError) -> str:
    verified = getattr(error, "verify_message", None)
    return str(verified or (error.reason or str(error)).replace("_", " ").lower())


def _shake_hands(server: ssl.SSLContext, cert: Path) -> Validity:
    """Do a handshake in memory between a server with the certificate and a client that trusts only it."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.load_verify_locations(cert)
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [trusting.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for end in ends * 3:  # more turns than a handshake takes
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = ends[0].getpeercert() or {}
    times = (ssl.cert_time_to_seconds(str(found[name])) for name in ("notBefore", "notAfter"))
    return Validity(*times)


def _judge(validity: Validity, key: Path, now: float) -> Verdict:
    ends = _day(validity.ends)
    if now < validity.begins:
        return fail(f"the certificate is valid from {_day(validity.begins)} on", "wait, or set this machine's clock")
    if now >= validity.ends:
        return fail(f"the certificate has expired on {ends}", "renew it, and send SIGHUP to a running server")
    if now >= validity.ends - SOON:
        return warn(f"the certificate expires on {ends}", "renew it, and send SIGHUP to a running server")
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return warn(f"{key} can be read by everybody", f"chmod o= {key}")
    return ok(f"certificate and key match, until {ends}")


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
