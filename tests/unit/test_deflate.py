"""permessage-deflate (RFC 7692): offers, compressed frames, and what inflates to what."""

import contextlib
import json
import os
import zlib

import pytest
from hypothesis import given, strategies as st

from att.protocol.deflate import LARGEST, SMALLEST, TooLarge, deflated_frame, inflate, negotiate
from att.protocol.frames import text_frame

ACCEPTED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
NARROW = f"{ACCEPTED}; server_max_window_bits=12"
BODY = json.dumps([{"name": "green tea", "cups": number} for number in range(30)]).encode()


@pytest.mark.parametrize(
    ("headers", "response"),
    [
        ([], ""),
        (["permessage-deflate"], ACCEPTED),
        (["permessage-deflate; client_max_window_bits"], ACCEPTED),  # Chromium, Firefox, Node.js
        (["permessage-deflate;client_max_window_bits=8 ;\tserver_no_context_takeover"], ACCEPTED),
        (['permessage-deflate; client_no_context_takeover; client_max_window_bits = "15"'], ACCEPTED),
        (["permessage-deflate; server_max_window_bits=15"], NARROW),
        (['permessage-deflate; server_max_window_bits="12"'], NARROW),
        (["permessage-deflate; server_max_window_bits=11"], ""),
        (["permessage-deflate; server_max_window_bits=11, permessage-deflate"], ACCEPTED),
        (["permessage-deflate; server_max_window_bits=13, permessage-deflate"], NARROW),
        (["x-webkit-deflate-frame", "mux; max-channels=4; flow-control, , permessage-deflate"], ACCEPTED),
        (["x-webkit-deflate-frame"], ""),
        (["permessage-deflate-2, permessage-deflat, PERMESSAGE-DEFLATE"], ""),
        # An offer is declined that has other parameters, a wrong value, or a parameter twice.
        (["permessage-deflate; level=9"], ""),
        (["permessage-deflate; server_no_context_takeover=1"], ""),
        (["permessage-deflate; client_no_context_takeover=true"], ""),
        (["permessage-deflate; server_max_window_bits"], ""),
        (["permessage-deflate; server_max_window_bits=16"], ""),
        (["permessage-deflate; server_max_window_bits=012"], ""),
        (["permessage-deflate; server_max_window_bits=\N{SUPERSCRIPT ONE}2"], ""),
        (["permessage-deflate; client_max_window_bits=7"], ""),
        (["permessage-deflate; client_max_window_bits=+9"], ""),
        (["permessage-deflate; client_max_window_bits; client_max_window_bits"], ""),
        (["permessage-deflate; server_no_context_takeover; server_no_context_takeover"], ""),
        # What is no list of extensions is declined as a whole.
        (["permessage-deflate;"], ""),
        (["permessage-deflate; client_max_window_bits="], ""),
        (["permessage-deflate; client_max_window_bits=1 0"], ""),
        (['permessage-deflate, x; a="b, c"'], ""),
        (["; client_max_window_bits, permessage-deflate"], ""),
        (["permessage deflate, permessage-deflate"], ""),
        (["p\xf6rmessage, permessage-deflate"], ""),
    ],
)
def test_offers(headers, response):
    """The first offer is accepted that can be, as RFC 7692, section 7.1, and RFC 6455, section 9.1, have it."""
    assert negotiate(headers) == response


def payload_of(frame):
    """The payload of a frame of at most 64 KiB, and whether it is compressed."""
    payload = frame[4:] if frame[1] == 126 else frame[2:]
    assert frame[1:] == text_frame(payload)[1:]
    return payload, frame[0] == 0xC1


def test_the_window():
    """A client with the smallest window that is accepted understands what repeats further back."""
    deflated, is_compressed = payload_of(deflated_frame(os.urandom(3_000).hex().encode() * 2))
    assert is_compressed
    inflater, rest, size = zlib.decompressobj(-12), deflated + b"\0\0\xff\xff", 0
    while rest:
        size += len(inflater.decompress(rest, 1_000))  # in parts, so that it has nothing but its window
        rest = inflater.unconsumed_tail
    assert size == 12_000


@pytest.mark.parametrize("body", [BODY, BODY * 30])
def test_a_compressed_frame(body):
    """It inflates to the payload, alone, with nothing before it."""
    for _ in range(2):
        deflated, is_compressed = payload_of(deflated_frame(body))
        assert is_compressed
        assert len(deflated) < len(body) / 3
        assert zlib.decompressobj(-12).decompress(deflated + b"\0\0\xff\xff") == body
        assert inflate(deflated, len(body)) == body


@pytest.mark.parametrize("body", [b"a" * (SMALLEST - 1), b"a" * (LARGEST + 1), os.urandom(5_000), b""])
def test_what_is_not_compressed(body):
    """Small ones, very large ones, and those that get no smaller."""
    assert deflated_frame(body) == text_frame(body)


@pytest.mark.parametrize(
    "deflated",
    [
        "f2 48 cd c9 c9 07 00",
        "00 05 00 fa ff 48 65 6c 6c 6f 00",
        "f3 48 cd c9 c9 07 00 00",
        "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
    ],
)
def test_the_examples_of_the_standard(deflated):
    """One block, a block without compression, a last block, and two blocks (RFC 7692, section 7.2.3)."""
    assert inflate(bytes.fromhex(deflated), 5) == b"Hello"
    with pytest.raises(TooLarge):
        inflate(bytes.fromhex(deflated), 4)


def test_bombs():
    """No more is inflated than the limit and a byte, and no more than a few streams."""
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(TooLarge):
        inflate(bomb, 2**20)
    with pytest.raises(zlib.error):
        inflate(b"\x03\x00" * 100_000, 2**20)


@given(st.binary(max_size=300))
def test_any_bytes(deflated):
    """They inflate, or are refused."""
    with contextlib.suppress(TooLarge, zlib.error):
        assert len(inflate(deflated, 1_000)) <= 1_000
