"""A body that is a sequence of JSON objects is cut right, however its bytes come (HTP-11)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.gateway.json_in import BadJson
from kvstore.gateway.json_stream import MAX_DEPTH, Splitter, TooLong

LIMIT = 1000

SCALARS = st.none() | st.booleans() | st.integers() | st.text('ab"\\{}[]é\n', max_size=6)
MAPS = st.dictionaries(st.just('k"]'), SCALARS)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.lists(MAPS, max_size=3)
OBJECTS = st.dictionaries(st.text("k}]", max_size=3), VALUES, max_size=3)


def feed(splitter: Splitter, data: bytes) -> list[bytes]:
    """Feed bytes and return the objects that are complete."""
    splitter.feed(data)
    return list(iter(splitter.next, None))


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut data into pieces of these sizes, in turn."""
    pieces, at = [], 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return pieces


@given(
    st.lists(st.tuples(OBJECTS, st.sampled_from(["", " ", "\n", "\r\n\t"])), max_size=5),
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
)
@settings(max_examples=100)
def test_the_objects_come_out_however_the_bytes_come_in(
    objects: list[tuple[dict[str, Any], str]], sizes: list[int]
) -> None:
    """HTP-11: several concatenated objects, with or without blanks between them."""
    body = "".join(json.dumps(value) + blank for value, blank in objects).encode()
    splitter = Splitter(100_000)
    found = [json.loads(item) for piece in cut(body, sizes) for item in feed(splitter, piece)]
    splitter.finish()
    assert found == [value for value, _ in objects]


def test_an_object_comes_out_with_its_last_byte() -> None:
    """HTP-11: it is not held back until more comes."""
    splitter = Splitter(LIMIT)
    body = b'{"a":"}\\"}"}'
    assert [feed(splitter, bytes([byte])) for byte in body[:-1]] == [[]] * (len(body) - 1)
    assert feed(splitter, body[-1:]) == [body]


@pytest.mark.parametrize("body", [b"[", b"7", b'"', b"null", b",", b"}", b"\x00", b"\xff"])
def test_what_is_no_object_is_refused_at_once(body: bytes) -> None:
    """HTP-11: also after a good one."""
    for before in (b"", b"{}", b"{}\n"):
        with pytest.raises(BadJson, match="want an object"):
            feed(Splitter(LIMIT), before + body)


@pytest.mark.parametrize("body", [b"{", b'{"a', b'{"a\\', b'{}{"a":[1'])
def test_a_body_that_ends_within_an_object_is_refused(body: bytes) -> None:
    """HTP-11: there is no half request."""
    splitter = Splitter(LIMIT)
    feed(splitter, body)
    with pytest.raises(BadJson, match="unexpected EOF"):
        splitter.finish()


def test_an_object_may_be_as_long_as_the_limit_and_no_longer() -> None:
    """HTP-11: whether it comes whole or in pieces, ended or not."""
    longest = b'{"a":"' + b"x" * (LIMIT - 8) + b'"}'
    assert feed(Splitter(LIMIT), longest * 3) == [longest] * 3
    for body in (longest + b" ", b"{ " + longest[1:], b'{"a":"' + b"x" * LIMIT):
        splitter = Splitter(LIMIT)
        if body.endswith(b" "):  # blanks between objects do not count
            assert feed(splitter, body) == [longest]
            continue
        with pytest.raises(TooLong):
            [item for piece in cut(body, [7]) for item in feed(splitter, piece)]
        with pytest.raises(TooLong):
            feed(Splitter(LIMIT), body)


def test_brackets_nest_no_deeper_than_etcds_parser_goes() -> None:
    """HTP-11: a bounded refusal."""
    deepest = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert feed(Splitter(10**6), deepest) == [deepest]
    with pytest.raises(BadJson, match="exceeded max depth"):
        feed(Splitter(10**6), b'{"a":' + b"[" * MAX_DEPTH)
