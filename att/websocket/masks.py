"""Search for frames without a mask (RFC 6455, section 5.1), which aiohttp's reader accepts. No I/O."""

_MASKED, _LENGTH = 0x80, 0x7F  # bits of a frame's second byte
_EXTENDED = {126: 2, 127: 8}  # bytes of a longer length, by what stands in its place
_KEY_SIZE = 4


class MaskScanner:
    """Follows the frames of one peer through the parts in which their bytes arrive."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""  # the beginning of an incomplete head
        self._left = 0  # bytes up to the next head

    @property
    def is_between_frames(self) -> bool:
        """Return True if the next byte begins a frame."""
        return not self._left and not self._head

    def find_unmasked(self, data: bytes) -> int | None:
        """Return where in the next bytes the first frame without a mask begins, None if there is none."""
        before = len(self._head)
        data = self._head + data
        start = self._left
        while len(data) >= start + 2:
            second = data[start + 1]
            if not second & _MASKED:
                return max(start - before, 0)
            length = second & _LENGTH
            payload = start + 2 + _EXTENDED.get(length, 0)
            if len(data) < payload:
                break
            if length in _EXTENDED:
                length = int.from_bytes(data[start + 2 : payload])
            start = payload + _KEY_SIZE + length
        self._head, self._left = data[start:], max(start - len(data), 0)
        return None
