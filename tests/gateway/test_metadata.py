"""HTTP headers become the metadata and the deadline of the call (HTP-13)."""

from __future__ import annotations

import pytest

from kvstore.errors import Code, EtcdError
from kvstore.gateway.metadata import call_metadata
from kvstore.rpc.grpc import _parse_timeout


def test_token_and_named_metadata_are_passed_on() -> None:
    """HTP-13: Authorization as it is, Grpc-Metadata-Name as name; nothing else."""
    headers = [
        (b"host", b"etcd"),
        (b"authorization", b"Bearer abc"),
        (b"grpc-metadata-hasleader", b"true"),
        (b"grpc-metadata-trace-bin", b"AQI"),
        (b"content-type", b"application/json"),
        (b"cookie", b"a=b"),
    ]
    assert call_metadata(headers) == [
        (b"authorization", b"Bearer abc"),
        (b"hasleader", b"true"),
        (b"trace-bin", b"AQI"),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"grpc-metadata-grpc-encoding", b"gzip"),
        (b"grpc-metadata-grpc-timeout", b"1n"),
        (b"grpc-metadata-content-type", b"application/grpc"),
        (b"grpc-metadata-te", b"trailers"),
        (b"grpc-metadata-", b"empty"),
        (b"grpc-metadata-:path", b"/"),
        (b"grpc-metadata-source", b"caf\xc3\xa9"),
    ],
)
def test_what_belongs_to_the_transport_or_is_no_text_is_not_passed_on(
    name: bytes, value: bytes
) -> None:
    """HTP-13: a client cannot break the call that is made for it."""
    assert call_metadata([(name, value)]) == []


@pytest.mark.parametrize("value", [b"!", b"AQI===", b"A"])
def test_a_binary_value_must_be_base64(value: bytes) -> None:
    """HTP-13: as etcd's gateway checks it."""
    with pytest.raises(EtcdError, match="invalid binary header trace-bin") as raised:
        call_metadata([(b"grpc-metadata-trace-bin", value)])
    assert raised.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"5S", 5),
        (b"250m", 0.25),
        (b"1H", 3600),
        (b"100000000S", 100_000_000),
        (b"123456789012m", 123_456_789.012),
        (b"999999999999999999H", 99_999_999 * 3600),
        (b"-1S", 0),
        (b"+2S", 2),
    ],
)
def test_a_timeout_becomes_the_deadline(text: bytes, seconds: float) -> None:
    """HTP-13: also one with more digits than gRPC has room for."""
    ((name, value),) = call_metadata([(b"grpc-timeout", text)])
    assert name == b"grpc-timeout"
    assert _parse_timeout(value) == pytest.approx(seconds, rel=1e-6)


def test_a_timeout_of_zero_is_none() -> None:
    """HTP-13: as in etcd's gateway."""
    assert call_metadata([(b"grpc-timeout", b"0S")]) == []


@pytest.mark.parametrize("text", [b"", b"5", b"S", b"5s", b"x", b"1.5S", b"1 S", b"\xffS"])
def test_what_is_no_timeout_is_refused(text: bytes) -> None:
    """HTP-13: with etcd's text."""
    with pytest.raises(EtcdError, match=r"^invalid grpc-timeout: ") as raised:
        call_metadata([(b"grpc-timeout", text)])
    assert raised.value.code is Code.INVALID_ARGUMENT
