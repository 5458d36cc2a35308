"""Certificates and keys of tests, for localhost; they are public."""

from pathlib import Path
from typing import NamedTuple


class Pair(NamedTuple):
    """Files of a certificate and its key."""

    cert: Path
    key: Path


# Valid from 2020-01-01 to 2120-01-01.
GOOD = """\
-----BEGIN CERTIFICATE-----
MIIBYTCCAQegAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABEbIq015GMgbpA18
iEWOb7S4WEKGKYuMPjq8jTKAVs5KEn4S3wkfq2oQaF2rFqBNOU1V0yOYI6SEmViz
s1RZ3k6jSDBGMAkGA1UdEwQCMAAwGgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAAB
MB0GA1UdDgQWBBTdXu6SXkk2zMvedfrgjzXpYoZp9TAKBggqhkjOPQQDAgNIADBF
AiAJrLkocqfReYVGxibB+ZUuDxkg+Z5fEB49wBbeJjHjGwIhAL/GJXixMiuJuf95
NJwEeXQlNKuwFx1LrRncbILezFt4
-----END CERTIFICATE-----
"""
GOOD_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgagwdSiG1EpC9j6Sz
AMv5KkgazZCPRNERFWpbePVQLWqhRANCAARGyKtNeRjIG6QNfIhFjm+0uFhChimL
jD46vI0ygFbOShJ+Et8JH6tqEGhdqxagTTlNVdMjmCOkhJlYs7NUWd5O
-----END PRIVATE KEY-----
"""

# Valid from 2020-01-01 to 2021-01-01.
EXPIRED = """\
-----BEGIN CERTIFICATE-----
MIIBXzCCAQWgAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwHhcNMjAwMTAxMDAwMDAwWhcNMjEwMTAxMDAwMDAwWjAUMRIwEAYDVQQDDAls
b2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR5HhPImDySPq5OLIZP
mMvACwlvF2oHufmz6rEPyHuqVvgGouCXXLrfE9/Ey9ldHjWVmv5utXSO3UXP1GzO
z2ZFo0gwRjAJBgNVHRMEAjAAMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAd
BgNVHQ4EFgQUrNhUehJPs/5ZRo3+IuPnc/MXHFgwCgYIKoZIzj0EAwIDSAAwRQIh
AOE48dqY87uU6bmqMiBdzp9vEM/2pdwGGO8O1PfDzL9QAiB05nOq1RJODxZ+xI0c
7ooNxcWT+/pIXdmLJHbDdhmgUg==
-----END CERTIFICATE-----
"""
EXPIRED_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgnkxz/5FdB0goaX1k
iNgDmJKKbkwPBiRy5RaaTFvsxXGhRANCAAR5HhPImDySPq5OLIZPmMvACwlvF2oH
ufmz6rEPyHuqVvgGouCXXLrfE9/Ey9ldHjWVmv5utXSO3UXP1GzOz2ZF
-----END PRIVATE KEY-----
"""


def write_pair(directory: Path, cert: str = GOOD, key: str = GOOD_KEY) -> Pair:
    """Write a certificate and its key."""
    pair = Pair(directory / "cert.pem", directory / "key.pem")
    pair.cert.write_text(cert)
    pair.key.write_text(key)
    pair.key.chmod(0o600)
    return pair
