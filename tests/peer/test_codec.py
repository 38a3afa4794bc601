"""Frames between members: what is encoded comes back, what is malformed is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.peer import codec
from kvstore.storage.errors import CodecError
from raft import CONF_CHANGE, NORMAL, ConfState, Message, MessageKind, SnapshotMeta

u64 = st.integers(0, 2**64 - 1)
index = st.integers(0, 2**60)
entries = st.lists(
    st.tuples(index, st.sampled_from([NORMAL, CONF_CHANGE]), st.binary(max_size=50)), max_size=5
)
ids = st.lists(st.integers(1, 2**64 - 1), max_size=3).map(lambda found: tuple(sorted(found)))
conf_states = st.builds(ConfState, ids, ids, ids, ids, st.booleans())
metas = st.builds(SnapshotMeta, index, index, conf_states)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    message = Message(
        draw(st.sampled_from(list(MessageKind))),
        draw(u64),
        draw(u64),
        term=draw(u64),
        log_term=draw(u64),
        index=draw(index),
        commit=draw(u64),
        reject=draw(st.booleans()),
        reject_hint=draw(u64),
        context=draw(u64),
    )
    message.entries = draw(entries)
    if not message.entries:
        message.snapshot = draw(st.none() | metas)
    return message


def frames_of(data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    """Feed data in pieces cut at the given places; bodies are copied, as the buffer is reused."""
    reader, found, start = codec.FrameReader(), [], 0
    for cut in [*sorted(c % (len(data) + 1) for c in cuts), len(data)]:
        piece, start = data[start:cut], cut
        found += [(kind, bytes(body)) for kind, body in reader.feed(piece)]
    return found


@given(st.lists(messages(), min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=6))
def test_messages_come_back_whatever_the_pieces_they_arrive_in(
    sent: list[Message], cuts: list[int]
) -> None:
    data = b"".join(codec.encode_message(message) for message in sent)
    received = [codec.decode_message(memoryview(body)) for _, body in frames_of(data, cuts)]
    for message in received:
        message.entries = list(message.entries)
    assert received == sent


@given(messages(), st.data())
def test_a_damaged_message_is_refused_or_is_another_message(
    message: Message, data: st.DataObject
) -> None:
    """TCP carries a checksum; what matters is that nothing but CodecError can come out."""
    body = bytearray(codec.encode_message(message)[codec.FRAME_HEAD.size :])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = codec.decode_message(memoryview(bytes(body)))
    except CodecError:
        return
    assert isinstance(decoded, Message)


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_a_codec_error(garbage: bytes) -> None:
    with pytest.raises(CodecError):
        codec.decode_message(memoryview(garbage[:65]))


def test_a_frame_above_the_limit_is_refused_before_it_is_buffered() -> None:
    head = (codec.MAX_FRAME_BYTES + 1).to_bytes(4, "big")
    with pytest.raises(CodecError, match="frame length"):
        codec.FrameReader().feed(head + b"\x01")


def test_a_frame_of_length_zero_is_refused() -> None:
    with pytest.raises(CodecError, match="frame length 0"):
        codec.FrameReader().feed(bytes(5))


@given(u64, st.integers(0, 255), st.binary(max_size=40))
def test_calls_and_replies_come_back(call_id: int, number: int, payload: bytes) -> None:
    [(kind, body)] = frames_of(codec.encode_call(call_id, number, payload), [])
    assert kind == codec.FrameType.CALL
    assert codec.decode_call(memoryview(body)) == (call_id, number, payload)
    [(kind, body)] = frames_of(codec.encode_reply(call_id, number, payload), [])
    assert kind == codec.FrameType.REPLY
    assert codec.decode_reply(memoryview(body)) == (call_id, number, payload)
