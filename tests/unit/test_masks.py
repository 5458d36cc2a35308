"""The search for frames without a mask, whatever parts the bytes arrive in."""

import struct

import pytest

from att.websocket.masks import MaskScanner

KEY = b"\x01\x02\x03\x04"


def frame(length, *, is_masked=True):
    """A frame of that many bytes. Its payload looks like frames without a mask."""
    bit = 0x80 if is_masked else 0
    if length < 126:
        head = struct.pack("!BB", 0x81, bit | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", 0x81, bit | 126, length)
    else:
        head = struct.pack("!BBQ", 0x81, bit | 127, length)
    return head + KEY * is_masked + b"\x81\x00" * (length // 2) + b"\x81" * (length % 2)


MASKED = b"".join(map(frame, (0, 1, 125, 126, 300, 0, 70_000, 2)))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1_000, 16_384, 10**6])
def test_scanner(size):
    """All frames with a mask pass. The first one without is found where it begins."""
    data = MASKED + frame(300, is_masked=False) + MASKED
    scanner = MaskScanner()
    for start in range(0, len(data), size):
        found = scanner.find_unmasked(data[start : start + size])
        if found is not None:
            break
    assert found is not None
    # Its first byte may have arrived before the second one, which tells.
    assert max(start + found - len(MASKED), 0) <= 1
    assert start + found >= len(MASKED)


def test_no_end():
    """A frame of the greatest length has no end."""
    scanner = MaskScanner()
    assert scanner.find_unmasked(b"\x82\xff" + b"\xff" * 8 + KEY) is None
    assert scanner.find_unmasked(b"\x81\x00" * 1_000) is None
