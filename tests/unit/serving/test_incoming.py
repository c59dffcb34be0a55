"""Where a request ends, byte by byte."""

import pytest

from effchal.serving.incoming import (
    BODY_LIMIT_BYTES,
    CHUNK_LIMIT,
    HEAD_LIMIT_BYTES,
    Incoming,
    Refused,
)

HEAD = b"POST /process?a=b HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = {
    "no body": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "length": HEAD + b"content-length:  5 \r\n\r\nabcde",
    "length of a body that looks like a head": HEAD + b"Content-Length: 8\r\n\r\na\r\n\r\n\r\nb",
    "chunks": CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
    "chunks that look like an end": CHUNKED + b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n",
    "chunks and trailers": CHUNKED + b"A\r\n0123456789\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n",
    "length in another header": HEAD + b"X-Content-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("rest", [b"", b"POST", WHOLE["length"]])
@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("name", WHOLE)
def test_a_request_is_whole_with_its_last_byte_and_no_sooner(name, at_once, rest):
    data, incoming = WHOLE[name], Incoming()
    for start in range(0, len(data) - 1, at_once):
        assert not incoming.add(data[start : min(start + at_once, len(data) - 1)])
    assert incoming.add(data[-1:] + rest)
    assert incoming.split() == (data, rest)


def test_the_path_is_without_its_query():
    incoming = Incoming()
    incoming.add(WHOLE["length"])
    assert incoming.path == b"/process"


def test_a_client_that_expects_to_continue_is_told_once():
    incoming = Incoming()
    head = b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert not incoming.add(HEAD + head)
    assert incoming.expects_continue
    assert incoming.add(b"{}")
    assert incoming.split() == (HEAD + b"Content-Length: 2\r\n\r\n{}", b"")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"Content-Length: %d\r\n\r\n" % (BODY_LIMIT_BYTES + 1), 413),
        (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (CHUNKED + b"%x\r\n" % (BODY_LIMIT_BYTES + 1), 413),
        (CHUNKED + (b"100000\r\n" + b"x" * (1 << 20) + b"\r\n") * 8 + b"1\r\n", 413),
        (CHUNKED + b"1\r\nx\r\n" * (CHUNK_LIMIT + 1), 413),
        (CHUNKED + b"-5\r\n", 400),
        (CHUNKED + b"0x5\r\n", 400),
        (CHUNKED + b"\r\n", 400),
        (CHUNKED + b"5" * 2000, 400),
        (HEAD + b"X: " + b"y" * HEAD_LIMIT_BYTES, 431),
        (CHUNKED + b"0\r\nX: " + b"y" * HEAD_LIMIT_BYTES, 431),
    ],
)
def test_what_is_too_large_or_has_no_end_is_refused(data, status):
    with pytest.raises(Refused) as refused:
        received_in_pieces(data)
    assert refused.value.status == status
    assert refused.value.message


def received_in_pieces(data):
    incoming = Incoming()
    for start in range(0, len(data), 64 << 10):
        incoming.add(data[start : start + (64 << 10)])


def test_a_body_of_exactly_the_limit_is_taken():
    incoming = Incoming()
    assert not incoming.add(HEAD + b"Content-Length: %d\r\n\r\n" % BODY_LIMIT_BYTES)
    assert incoming.add(b"x" * BODY_LIMIT_BYTES)


def test_a_body_of_exactly_as_many_chunks_as_allowed_is_taken():
    incoming = Incoming()
    assert not incoming.add(CHUNKED + b"1\r\nx\r\n" * CHUNK_LIMIT)
    assert incoming.add(b"0\r\n\r\n")
