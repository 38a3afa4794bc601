"""Messages as JSON and back, held against protobuf's own mapping, and what is refused (HTP-10)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.gateway.json_in import MAX_NESTING, MAX_NUMBER_CHARS, BadJson, decode
from kvstore.gateway.json_out import encode
from kvstore.gateway.routes import ROUTES
from kvstore.pb import kv_pb2, rpc_pb2
from kvstore.pb._pool import POOL
from tests.gateway.messages import any_message


def read(text: str, message: type[Message] = rpc_pb2.RangeRequest) -> Any:
    return decode(message, text.encode())


def refusal(text: str | bytes, message: type[Message] = rpc_pb2.RangeRequest) -> str:
    body = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(BadJson) as raised:
        decode(message, body)
    return str(raised.value)


def test_there_are_the_bindings_of_etcd() -> None:
    """HTP-09: 51 bindings, all below /v3/; each RPC exists in the .proto files."""
    assert len(ROUTES) == 51
    assert all(path.startswith("/v3/") for path in ROUTES)
    streaming = {r.rpc for r in ROUTES.values() if r.server_streaming}
    assert streaming == {
        "/etcdserverpb.Watch/Watch",
        "/etcdserverpb.Lease/LeaseKeepAlive",
        "/etcdserverpb.Maintenance/Snapshot",
        "/v3electionpb.Election/Observe",
    }


@given(any_message())
@settings(max_examples=100, deadline=None)
def test_a_message_is_printed_as_protobuf_prints_it(message: Message) -> None:
    """HTP-10: proto names, 64-bit integers as strings, base64, zero values left out, field order.

    Pairs are compared in their order, so that the text is the same but for blanks.
    """
    expected = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)
    printed = encode(message)
    pairs = json.loads(printed, object_pairs_hook=list)
    assert pairs == json.loads(expected, object_pairs_hook=list)
    assert "\n" not in printed


@given(any_message(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_protobuf_prints_is_read_back(message: Message, proto_names: bool) -> None:
    """HTP-10: proto names and camelCase names are read."""
    text = json_format.MessageToJson(
        message, preserving_proto_field_name=proto_names, always_print_fields_with_no_presence=True
    )
    assert decode(type(message), text.encode()) == message


@given(any_message())
@settings(max_examples=100, deadline=None)
def test_reading_undoes_printing(message: Message) -> None:
    """HTP-10: nothing is lost either way; protobuf reads it too."""
    text = encode(message)
    assert decode(type(message), text.encode()) == message
    assert json_format.Parse(text, type(message)(), descriptor_pool=POOL) == message


def test_a_lease_without_time_left_has_no_ttl() -> None:
    """OTH-17: Patroni takes a keepalive for lost when TTL is absent; "0" would be truthy."""
    assert encode(rpc_pb2.LeaseKeepAliveResponse(ID=7, TTL=0)) == '{"ID":"7"}'


def test_an_event_says_delete_by_name_and_put_by_nothing() -> None:
    """OTH-18: DELETE is spelled out, PUT is the zero value, mod_revision is always there."""
    kv = kv_pb2.KeyValue(key=b"k", mod_revision=7)
    deleted = kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv)
    assert encode(deleted) == '{"type":"DELETE","kv":{"key":"aw==","mod_revision":"7"}}'
    put = kv_pb2.Event(type=kv_pb2.Event.PUT, kv=kv)
    assert encode(put) == '{"kv":{"key":"aw==","mod_revision":"7"}}'


def test_an_unknown_enum_number_is_printed_as_a_number() -> None:
    """HTP-10: there is no name for it."""
    assert encode(rpc_pb2.RangeRequest(sort_order=9)) == '{"sort_order":9}'  # type: ignore[arg-type]


@given(st.binary(max_size=40), st.booleans(), st.booleans())
def test_bytes_are_base64_of_either_alphabet_padded_or_not(
    value: bytes, url_safe: bool, padded: bool
) -> None:
    """HTP-10: standard and URL-safe base64."""
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(value).decode()
    read_back = read(json.dumps({"key": text if padded else text.rstrip("=")}))
    assert read_back.key == value


@pytest.mark.parametrize(
    "text",
    ["a", "Zg=", "Zg===", "Zm9vY", "=Zg=", "Z g=", "Zm9v!", "+_+_", "é", "Zm9v====", "\ud800"],
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    """HTP-10: it is never half-read."""
    assert refusal(json.dumps({"key": text})).startswith("invalid value for bytes field key: ")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ('"7"', 7),
        ("-7", -7),
        ("7.0", 7),
        ('"7.00"', 7),
        ("7e3", 7000),
        ('"7E+3"', 7000),
        ("70e-1", 7),
        ("0", 0),
        ("-0", 0),
        ("9223372036854775807", 2**63 - 1),
        ('"-9223372036854775808"', -(2**63)),
        ("9.223372036854775807e18", 2**63 - 1),
        ("null", 0),
    ],
)
def test_integers_are_numbers_or_strings(text: str, number: int) -> None:
    """HTP-10: exactly, also with fraction and exponent."""
    assert read(f'{{"limit":{text}}}').limit == number


@pytest.mark.parametrize(
    "text",
    [
        *("9223372036854775808", "-9223372036854775809", '"9223372036854775808"', "1e19"),
        *("7.5", '"7.5"', "7e-1", '""', '" 7"', '"7 "', '"+7"', '"07"', '"0x7"', '"seven"'),
        '"1_0"',
        *("true", "[7]", "{}", '"NaN"', "1e999999999", '"1e-999999999"', '"٣"'),
        '"' + "0" * 10_000 + '"',
        "1." + "0" * MAX_NUMBER_CHARS,
    ],
)
def test_what_is_no_integer_in_range_is_refused(text: str) -> None:
    """HTP-10: out of range or of a wrong type: an error that names the field."""
    assert refusal(f'{{"limit":{text}}}').startswith("invalid value for int64 field limit: ")


@pytest.mark.parametrize(
    ("text", "number"),
    [('"DESCEND"', 2), ("2", 2), ("2.0", 2), ('"UPWARDS"', 0), ("77", 77), ("-1", -1)],
)
def test_enums_are_names_or_numbers(text: str, number: int) -> None:
    """HTP-10: an unknown name is ignored like an unknown field, an unknown number goes through."""
    assert read(f'{{"sort_order":{text}}}').sort_order == number


def test_unknown_enum_names_leave_a_list() -> None:
    """HTP-10: the others stay."""
    request = read('{"filters":["NOPUT","NOSE","NODELETE"]}', rpc_pb2.WatchCreateRequest)
    assert list(request.filters) == [0, 1]


@pytest.mark.parametrize("text", ["2147483648", "1.5", "true", "[]"])
def test_what_is_no_enum_is_refused(text: str) -> None:
    """HTP-10: a number must fit 32 bits."""
    assert refusal(f'{{"sort_order":{text}}}').startswith("invalid value for enum field sort_order")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"serializable":1}', "invalid value for bool field serializable: 1"),
        ('{"serializable":"true"}', 'invalid value for bool field serializable: "true"'),
        ('{"key":7}', "invalid value for bytes field key: 7"),
        ('{"key":["YQ=="]}', "invalid value for bytes field key: ["),
        ('{"key":"YQ==","key":"Yg=="}', 'duplicate field "key"'),
        ('{"sort_order":1,"sortOrder":2}', 'duplicate field "sortOrder"'),
        ('{"key":null,"key":"Yg=="}', 'duplicate field "key"'),
    ],
)
def test_a_wrong_value_names_its_field(text: str, why: str) -> None:
    """HTP-10: the text says what was found."""
    assert refusal(text) == why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"compare":{}}', "unexpected token { in field compare, want a list"),
        ('{"compare":[7]}', "unexpected token 7, want an object"),
        ('{"compare":[null]}', "unexpected token null, want an object"),
        (
            '{"compare":[{"version":1,"lease":2}]}',
            'error parsing "lease", oneof target_union is already set',
        ),
        ('{"success":[{"request_put":"x"}]}', 'unexpected token "x", want an object'),
    ],
)
def test_wrong_structure_is_refused(text: str, why: str) -> None:
    """HTP-10: lists, messages and oneofs."""
    assert refusal(text, rpc_pb2.TxnRequest) == why


def test_null_is_absence() -> None:
    """HTP-10: for every type, and it does not count as a member of a oneof."""
    text = '{"compare":[{"version":null,"lease":"0","key":null}],"success":null}'
    request = read(text, rpc_pb2.TxnRequest)
    assert request.compare[0].WhichOneof("target_union") == "lease"
    assert not request.success


def test_unknown_fields_are_ignored() -> None:
    """HTP-10: whatever is in them."""
    text = '{"no_such":{"a":[1,{"b":null}]},"key":"YQ==","KEY":1,"no_such":2}'
    assert read(text) == rpc_pb2.RangeRequest(key=b"a")


@pytest.mark.parametrize(
    "text", ["", " ", "\r\n\t", "{}", " {} ", "{} garbage", '{}{"key":"YQ=="}']
)
def test_only_the_first_value_counts_and_none_is_an_empty_message(text: str) -> None:
    """HTP-10: as etcd's gateway reads a body."""
    assert read(text) == rpc_pb2.RangeRequest()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "unexpected EOF"),
        (b'{"key"', "unexpected EOF"),
        (b'{"key":"Zm9', "unexpected EOF"),
        (b"[1,", "unexpected EOF"),
        (b"null", "unexpected token null, want an object"),
        (b"[]", "unexpected token [, want an object"),
        (b"7", "unexpected token 7, want an object"),
        (b'"x"', 'unexpected token "x", want an object'),
        (b"{'key':1}", "invalid character"),
        (b'{"key":"\x00"}', "invalid character"),
        (b'{"key":"\\q"}', "invalid character"),
        (b"{} }"[::-1], "invalid character"),
        (b"\xef\xbb\xbf{}", "invalid character"),
        (b'{"key":"\xff"}', "invalid UTF-8 at byte 8"),
        (b'{"limit":NaN}', "invalid value NaN"),
        (b'{"limit":-Infinity}', "invalid value -Infinity"),
        (b'{"limit":' + b"9" * 100_000 + b"}", "invalid number: too many digits"),
        (b"[" * 1_000_000, "exceeded max depth"),
        (b'{"a":' * 1_000_000, "exceeded max depth"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, why: str) -> None:
    """HTP-10: with a reason, and never with another exception."""
    assert refusal(body).startswith(why)


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """HTP-10: no input raises anything but the refusal."""
    try:
        decode(rpc_pb2.TxnRequest, body)
    except BadJson as error:
        assert str(error)


def nested(depth: int) -> str:
    """A transaction in a transaction, ``depth`` messages deep."""
    pairs = (depth - 1) // 2
    inner = '{"success":[{"requestTxn":' * pairs + "{}" + "}]}" * pairs
    return inner if depth % 2 else f'{{"success":[{{"requestTxn":{inner}}}]}}'


def test_messages_nest_as_deep_as_protobuf_reads_them() -> None:
    """HTP-10: at the limit the message is read, beyond it refused."""
    deepest = read(nested(MAX_NESTING - 1), rpc_pb2.TxnRequest)
    assert rpc_pb2.TxnRequest.FromString(deepest.SerializeToString()) == deepest
    assert refusal(nested(MAX_NESTING + 1), rpc_pb2.TxnRequest) == "exceeded max recursion depth"


def test_an_error_quotes_no_more_than_a_little() -> None:
    """A client's megabytes do not come back to it."""
    assert len(refusal('{"limit":"' + "9" * 1_000_000 + '"}')) < 200
    assert len(refusal('{"key":"' + "!" * 1_000_000 + '"}')) < 200
    assert len(refusal('{"limit":' + "9" * 4000 + "}")) < 200


def test_half_a_surrogate_pair_is_no_string() -> None:
    """HTP-10: it has no UTF-8."""
    why = refusal('{"name":"\\ud800"}', rpc_pb2.AuthUserAddRequest)
    assert why.startswith("invalid value for string field name")
    assert read('{"name":"\\ud83d\\ude00é"}', rpc_pb2.AuthUserAddRequest).name == "😀é"
