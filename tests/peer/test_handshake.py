"""The first bytes of a connection between members."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.peer.handshake import (
    MAGIC,
    MAX_URLS_BYTES,
    PROTOCOL_VERSION,
    Handshake,
    Purpose,
    Status,
    encode_answer,
    take_answer,
    take_handshake,
)
from kvstore.storage.errors import CodecError

u64 = st.integers(0, 2**64 - 1)
urls = st.lists(st.text(min_size=1, max_size=20).filter(lambda url: "\n" not in url), max_size=5)


@settings(max_examples=50)
@given(u64, u64, u64, urls, st.binary(max_size=20))
def test_handshakes_come_back(
    cluster: int, sender: int, receiver: int, found: list[str], rest: bytes
) -> None:
    shake = Handshake(PROTOCOL_VERSION, Purpose.STREAM, cluster, sender, receiver, tuple(found))
    sent = shake.encode()
    assert take_handshake(sent + rest) == (shake, len(sent))
    for cut in range(len(sent)):
        assert take_handshake(sent[:cut]) is None


def test_urls_beyond_the_limit_are_left_out() -> None:
    many = tuple(f"http://{i:060}" for i in range(2000))
    shake = Handshake(PROTOCOL_VERSION, Purpose.STREAM, 1, 2, 3, many)
    taken = take_handshake(shake.encode())
    assert taken is not None
    kept = taken[0].urls
    assert kept == many[: len(kept)]
    assert len("\n".join((*kept, many[len(kept)]))) > MAX_URLS_BYTES


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1\r\n", bytes(40), b"KVPEER\r"])
def test_another_protocol_is_no_handshake(data: bytes) -> None:
    with pytest.raises(CodecError):
        take_handshake(data)


def test_urls_that_are_no_text_are_refused() -> None:
    sent = Handshake(PROTOCOL_VERSION, Purpose.STREAM, 1, 2, 3, ("abc",)).encode()
    with pytest.raises(CodecError):
        take_handshake(sent[:-1] + b"\xff")


def test_another_version_is_known_by_its_number() -> None:
    taken = take_handshake(MAGIC + bytes([PROTOCOL_VERSION + 1]) + b"whatever")
    assert taken is not None
    assert taken[0].version == PROTOCOL_VERSION + 1


def test_answers_come_back() -> None:
    sent = encode_answer(Status.REMOVED, "gone") + b"rest"
    assert take_answer(sent) == (Status.REMOVED, "gone", len(sent) - 4)
    assert take_answer(sent[:4]) is None
    long = take_answer(encode_answer(Status.REFUSED, "x" * 5000))
    assert long is not None
    assert len(long[1]) == 1000
