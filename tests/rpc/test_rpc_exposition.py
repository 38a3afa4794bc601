"""The exposition's text, read back by Prometheus' own parser."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvstore.histogram import Histogram, exponential
from kvstore.rpc.exposition import Spec, Value, exposition, go_float

SPECS = {
    "a_total": Spec("counter", "A counter."),
    "b_failures": Spec("counter", "A counter without the suffix.", ("To",)),
    "c_total": Spec("gauge", "A gauge with\nthe suffix \\ of a counter."),
    "d_seconds": Spec("histogram", "Times.", (), (0.5, 1.0)),
    "e_seconds": Spec("histogram", "Times by peer.", ("To",), (0.5, 1.0)),
}


class Values:
    """A source with fixed values."""

    def __init__(self, **values: Value) -> None:
        self.values = values

    def metrics(self) -> Mapping[str, Value]:
        return self.values


def text(**values: Value) -> str:
    return exposition(Values(**values), SPECS)().decode()


def samples(exposed: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By (name, labels), as Prometheus would store them.

    Types are hidden from the client library's parser, which appends ``_total`` to counters.
    """
    untyped = re.sub(r"^(# TYPE \S+) \w+$", r"\1 untyped", exposed, flags=re.MULTILINE)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(untyped)
        for sample in family.samples
    }


def test_names_and_types_leave_exactly_as_they_are_given() -> None:
    exposed = text(a_total=1, b_failures={("x",): 2}, c_total=3)
    assert "# TYPE a_total counter\na_total 1\n" in exposed
    assert '# TYPE b_failures counter\nb_failures{To="x"} 2\n' in exposed
    assert "# TYPE c_total gauge\nc_total 3\n" in exposed


def test_help_is_escaped() -> None:
    assert "# HELP c_total A gauge with\\nthe suffix \\\\ of a counter.\n" in text(c_total=3)


def test_label_values_come_back_from_the_parser_as_they_were() -> None:
    nasty = 'a\\b"c\nd{e},\u2028ä'
    found = samples(text(b_failures={(nasty,): 1, ("plain",): 2}))
    assert found["b_failures", (("To", nasty),)] == 1
    assert found["b_failures", (("To", "plain"),)] == 2


def test_histograms_are_cumulative_and_end_in_infinity() -> None:
    histogram = Histogram((0.5, 1.0))
    for value in (0.25, 0.5, 0.75, 3.0):
        histogram.observe(value)
    found = samples(text(d_seconds=histogram, e_seconds={("x",): histogram}))
    for name, labels in (("d_seconds", ()), ("e_seconds", (("To", "x"),))):
        for le, count in (("0.5", 2), ("1", 3), ("+Inf", 4)):
            assert found[f"{name}_bucket", tuple(sorted((*labels, ("le", le))))] == count
        assert found[f"{name}_count", labels] == 4
        assert found[f"{name}_sum", labels] == 4.5


def test_numbers_keep_their_value() -> None:
    values: list[float] = [0, 1, -1, 2**63, 0.1, 1e-300, 1.8446744073709552e19, float("inf")]
    found = samples(text(b_failures={(str(i),): value for i, value in enumerate(values)}))
    for i, value in enumerate(values):
        assert found["b_failures", (("To", str(i)),)] == value


def test_a_value_that_is_left_out_and_one_without_series_are_not_exposed() -> None:
    assert text(b_failures={}) == text() == "\n".strip()


def test_an_unknown_name_is_an_error_of_the_server_not_a_silent_metric() -> None:
    with pytest.raises(KeyError, match="x_total"):
        text(x_total=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("b_failures", 1),
        ("b_failures", {("x", "y"): 1}),
        ("d_seconds", 1),
        ("d_seconds", Histogram((0.5,))),
        ("a_total", Histogram((0.5, 1.0))),
    ],
)
def test_a_value_that_does_not_fit_its_spec_is_an_error_naming_the_metric(
    name: str, value: Value
) -> None:
    with pytest.raises(ValueError, match=name):
        text(**{name: value})


@pytest.mark.parametrize(
    ("number", "spelled"),
    [
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (1.0, "1"),
        (524288.0, "524288"),
        (1048576.0, "1.048576e+06"),
        (1e6, "1e+06"),
        (-2.5, "-2.5"),
        (0.0, "0"),
        (409.6, "409.6"),
        (float("inf"), "+Inf"),
    ],
)
def test_bounds_are_spelled_as_go_does(number: float, spelled: str) -> None:
    assert go_float(number) == spelled


def test_bounds_of_long_histograms_stay_exact() -> None:
    bounds = exponential(1, 2, 24)
    assert [float(go_float(bound)) for bound in bounds] == list(bounds)
