"""What a scrape says: etcd's names, types and labels, from the server's own counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kvstore.errors import Code
from kvstore.rpc.grpc import Method
from kvstore.rpc.metrics import (
    CODE_NAMES,
    DISK_BUCKETS,
    SPECS,
    Histogram,
    Value,
    exponential,
    exposition,
)
from tests.rpc.harness import SERVICE, RawClient, Running, frame, put


class Snapshot:
    """A source with fixed values."""

    def __init__(self, **values: Value) -> None:
        self.values = values

    def metrics(self) -> Mapping[str, Value]:
        return self.values


def scrape(source: Snapshot, methods: Iterable[Method] = ()) -> str:
    return exposition(source, lambda: methods)().decode()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value_for(name: str) -> Any:
    spec = SPECS[name]
    if spec.kind == "histogram":
        return Histogram()
    return {("x",): 7.0} if spec.labels else 7.0


@pytest.mark.parametrize("name", SPECS)
def test_every_metric_leaves_under_its_exact_name_and_type(name: str) -> None:
    text = scrape(Snapshot(**{name: value_for(name)}))
    assert f"# TYPE {name} {SPECS[name].kind}\n" in text
    if SPECS[name].kind != "histogram":
        labels = "".join(f'{label}="x"' for label in SPECS[name].labels)
        assert f"\n{name}{{{labels}}} 7.0\n" in text.replace(f"{name} ", f"{name}{{}} ")


def test_a_value_that_is_left_out_is_not_exposed() -> None:
    assert "etcd_server_has_leader" not in scrape(Snapshot(etcd_server_is_leader=1))


def test_an_unknown_name_is_an_error_of_the_server_not_a_silent_metric() -> None:
    with pytest.raises(KeyError, match="etcd_server_has_a_leader"):
        scrape(Snapshot(etcd_server_has_a_leader=1))


def test_wrong_labels_are_an_error_naming_the_metric() -> None:
    with pytest.raises(ValueError, match="etcd_server_id has the labels"):
        scrape(Snapshot(etcd_server_id={("a", "b"): 1}))


def test_disk_buckets_are_etcds() -> None:
    assert exponential(0.001, 2, 14) == DISK_BUCKETS
    name = "etcd_disk_wal_fsync_duration_seconds"
    text = scrape(Snapshot(**{name: Histogram()}))
    bounds = [line.split('"')[1] for line in text.splitlines() if line.startswith(name + "_bucket")]
    expected = "0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192"
    assert bounds == [*expected.split(), "+Inf"]


@given(st.lists(st.floats(0, 20, allow_nan=False), max_size=30))
def test_a_bucket_counts_all_observations_up_to_its_bound(observed: list[float]) -> None:
    histogram = Histogram()
    for value in observed:
        histogram.observe(value)
    for bound, (_, count) in zip((*DISK_BUCKETS, 1e9), histogram.cumulative(), strict=True):
        assert count == sum(value <= bound for value in observed)
    assert histogram.total == pytest.approx(sum(observed))


def test_the_process_is_measured() -> None:
    found = {name for name, _ in samples(scrape(Snapshot()))}
    assert {
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    } <= found


def test_code_names_are_gos_in_the_order_of_the_codes() -> None:
    assert len(CODE_NAMES) == len(Code)
    for code, name in zip(Code, CODE_NAMES, strict=True):
        spelled = "Canceled" if code is Code.CANCELLED else name
        expected = code.name.replace("_", "").lower()
        assert spelled.lower() == expected or name == "Canceled"


def test_every_method_and_code_exists_before_the_first_call() -> None:
    method = Method("test.Service", "echo", "unary", bytes, bytes)
    found = samples(scrape(Snapshot(), [method]))
    labels = {"grpc_type": "unary", "grpc_service": "test.Service", "grpc_method": "echo"}
    assert found["grpc_server_started_total", frozenset(labels.items())] == 0
    for name in CODE_NAMES:
        coded = frozenset({**labels, "grpc_code": name}.items())
        assert found["grpc_server_handled_total", coded] == 0


def test_calls_are_counted_by_method_and_code() -> None:
    with Running() as server:
        client = RawClient(server.port)
        for _ in range(3):
            client.call("echo", frame(put(b"x")))
        client.call("fail", frame(put(b"gone", key=b"5")))
        client.call("stream_echo", frame(put(b"a")) + frame(put(b"b")))
        client.close()
        found = samples(server.exposition().decode())

    def value(name: str, kind: str, method: str, **more: str) -> float:
        labels = {"grpc_type": kind, "grpc_service": SERVICE.strip("/"), "grpc_method": method}
        return found[name, frozenset({**labels, **more}.items())]

    assert value("grpc_server_started_total", "unary", "echo") == 3
    assert value("grpc_server_handled_total", "unary", "echo", grpc_code="OK") == 3
    assert value("grpc_server_msg_sent_total", "unary", "echo") == 3
    assert value("grpc_server_handled_total", "unary", "fail", grpc_code="NotFound") == 1
    assert value("grpc_server_msg_sent_total", "unary", "fail") == 0
    assert value("grpc_server_msg_received_total", "bidi_stream", "stream_echo") == 2
    assert value("grpc_server_msg_sent_total", "bidi_stream", "stream_echo") == 2


def test_the_router_counts_the_bytes_of_its_clients() -> None:
    request = frame(put(b"12345"))
    with Running() as server:
        client = RawClient(server.port)
        client.call("echo", request)
        client.call("stream_echo", request)
        client.close()
        assert server.router.received_bytes == 2 * len(request)
        assert server.router.sent_bytes == 2 * len(frame(b"12345"))
