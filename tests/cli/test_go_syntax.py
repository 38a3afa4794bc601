"""Values are read as Go reads them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.cli.go_syntax import (
    MAX_INT64,
    MAX_UINT32,
    MAX_UINT64,
    ValueSyntaxError,
    parse_bool,
    parse_duration_ns,
    parse_int,
    parse_uint,
)


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "True", "TRUE"])
def test_every_spelling_of_true_is_read(text: str) -> None:
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "false", "False", "FALSE"])
def test_every_spelling_of_false_is_read(text: str) -> None:
    assert parse_bool(text) is False


@pytest.mark.parametrize("text", ["", "yes", "on", "tRUE", "2", " true"])
def test_other_words_are_no_truth_values(text: str) -> None:
    with pytest.raises(ValueSyntaxError, match="parse error"):
        parse_bool(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("10", 10),
        ("0x10", 16),
        ("0X1f", 31),
        ("0b101", 5),
        ("0o17", 15),
        ("017", 15),
        ("1_000", 1000),
        ("0_7", 7),
        ("0x_f", 15),
        (str(MAX_UINT64), MAX_UINT64),
    ],
)
def test_integer_literals_of_go_are_read(text: str, value: int) -> None:
    assert parse_uint(text) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1k", " 1", "1 ", "08", "1__0", "_1", "1_", "0x", "1.0", "\u0661"]
)
def test_what_go_cannot_parse_as_unsigned_is_a_parse_error(text: str) -> None:
    with pytest.raises(ValueSyntaxError, match="parse error"):
        parse_uint(text)


def test_an_integer_above_its_type_is_out_of_range() -> None:
    assert parse_uint(str(MAX_UINT32), MAX_UINT32) == MAX_UINT32
    with pytest.raises(ValueSyntaxError, match="value out of range"):
        parse_uint(str(MAX_UINT32 + 1), MAX_UINT32)
    with pytest.raises(ValueSyntaxError, match="value out of range"):
        parse_uint(str(MAX_UINT64 + 1))
    assert parse_int(str(-MAX_INT64 - 1)) == -MAX_INT64 - 1
    with pytest.raises(ValueSyntaxError, match="value out of range"):
        parse_int(str(MAX_INT64 + 1))


@pytest.mark.parametrize(("text", "value"), [("-1", -1), ("+1", 1), ("-0x10", -16), ("7", 7)])
def test_signed_integers_take_a_sign(text: str, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("100ms", 100_000_000),
        ("1.5s", 1_500_000_000),
        (".5s", 500_000_000),
        ("5.s", 5_000_000_000),
        ("2h0m0s", 7_200_000_000_000),
        ("1h2m3.004s", 3_723_004_000_000),
        ("-3s", -3_000_000_000),
        ("+3s", 3_000_000_000),
        ("3us", 3_000),
        ("3\u00b5s", 3_000),
        ("3\u03bcs", 3_000),
        ("0.9ns", 0),
    ],
)
def test_durations_of_go_are_read(text: str, nanoseconds: int) -> None:
    assert parse_duration_ns(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", ".s", "-", "3x", "3 s", "1d", "3s4", "s3", "9223372036854775808ns"]
)
def test_what_go_cannot_parse_as_duration_is_a_parse_error(text: str) -> None:
    with pytest.raises(ValueSyntaxError, match="parse error"):
        parse_duration_ns(text)


@given(
    hours=st.integers(0, 2000),
    minutes=st.integers(0, 59),
    milliseconds=st.integers(0, 59_999),
    negative=st.booleans(),
)
@settings(max_examples=60)
def test_a_duration_is_the_sum_of_its_pieces(
    hours: int, minutes: int, milliseconds: int, negative: bool
) -> None:
    text = f"{'-' if negative else ''}{hours}h{minutes}m{milliseconds / 1000:.3f}s"
    expected = ((hours * 60 + minutes) * 60_000 + milliseconds) * 1_000_000
    assert parse_duration_ns(text) == (-expected if negative else expected)


@given(st.text(max_size=12))
@settings(max_examples=150)
def test_any_text_is_a_value_or_one_of_the_two_errors(text: str) -> None:
    for parse in (parse_bool, parse_int, parse_uint, parse_duration_ns):
        try:
            parse(text)
        except ValueSyntaxError as error:
            assert str(error) in ("parse error", "value out of range")
