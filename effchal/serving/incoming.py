"""The bytes of a request as they come in: where it ends, and whether it grows too large."""

import re

HEAD_LIMIT_BYTES = 64 << 10
BODY_LIMIT_BYTES = 8 << 20
SIZE_LINE_LIMIT_BYTES = 1024  # of a chunk
CHUNK_LIMIT = 20_000  # each takes microseconds of the thread that reads for all clients
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked", re.IGNORECASE)
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)


class Refused(Exception):
    """A request that is refused before all of it is there."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Incoming:
    """What came in of one request, and perhaps the first bytes of the next one.

    Only where the request ends is read here. All else is for gunicorn's parser, which gets
    the bytes up to there and no others.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._body = 0  # where it begins; 0: the head is not there yet
        self._end: int | None = None  # of the request
        self._chunk = 0  # where the next chunk begins, of a body in chunks
        self._chunks = 0  # how many so far
        self._in_chunks = 0  # their bytes, those to come of the last one included
        self.expects_continue = False  # the client waits for "100 Continue" before its body

    def __len__(self) -> int:
        return len(self._data)

    @property
    def has_head(self) -> bool:
        return self._body > 0

    @property
    def path(self) -> bytes:
        """Without its query."""
        words = self._data[: self._data.find(b"\r\n")].split(b" ")
        return bytes(words[1]).partition(b"?")[0] if len(words) > 1 else b""

    def add(self, data: bytes) -> bool:
        """Append what came in; whether the request is whole now.

        Raises:
            Refused: 413 or 431, too large; 400, chunks that cannot be read.
        """
        searched = max(0, len(self._data) - 3)
        self._data += data
        if not self.has_head:
            self._read_head(searched)
        if self.has_head and self._end is None:
            self._read_chunks()
        return self._end is not None and len(self._data) >= self._end

    def split(self) -> tuple[bytes, bytes]:
        """The whole request, and what follows it."""
        head, body = self._data[: self._body], self._data[self._body : self._end]
        # Answered already, so gunicorn must not answer it once more.
        return EXPECT.sub(b"", bytes(head)) + body, bytes(self._data[self._end :])

    def _read_head(self, searched: int) -> None:
        blank = self._data.find(b"\r\n\r\n", searched)
        if (len(self._data) if blank < 0 else blank) > HEAD_LIMIT_BYTES:
            raise Refused(431, f"the headers have more than {HEAD_LIMIT_BYTES} bytes")
        if blank < 0:
            return
        self._body = self._chunk = blank + 4
        head = bytes(self._data[: blank + 2])
        self.expects_continue = EXPECT.search(head) is not None
        if CHUNKED.search(head):
            return
        length = LENGTH.search(head)
        digits = length[1] if length else b"0"
        if len(digits) > 18 or int(digits) > BODY_LIMIT_BYTES:
            raise too_large()
        self._end = self._body + int(digits)

    def _read_chunks(self) -> None:
        while (end := self._data.find(b"\r\n", self._chunk)) >= 0:
            digits = bytes(self._data[self._chunk : end]).partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", digits):
                raise Refused(400, f"a chunk's size is {digits[:20]!r}")
            size = int(digits, 16)
            self._in_chunks += size
            if self._in_chunks > BODY_LIMIT_BYTES or len(self._data) > 2 * BODY_LIMIT_BYTES:
                raise too_large()
            if size == 0:  # the last one; trailers may follow, then an empty line
                blank = self._data.find(b"\r\n\r\n", end)
                if blank >= 0:
                    self._end = blank + 4
                elif len(self._data) - end > HEAD_LIMIT_BYTES:
                    raise Refused(431, f"the trailers have more than {HEAD_LIMIT_BYTES} bytes")
                return
            self._chunks += 1
            if self._chunks > CHUNK_LIMIT:
                raise Refused(413, f"the body has more than {CHUNK_LIMIT} chunks")
            self._chunk = end + 2 + size + 2
        if len(self._data) - self._chunk > SIZE_LINE_LIMIT_BYTES:
            raise Refused(400, "a chunk has no size")


def too_large() -> Refused:
    return Refused(413, f"the body has more than {BODY_LIMIT_BYTES} bytes")
