"""Fixtures: one server for a module's tests, a raw client for each test."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.rpc.harness import RawClient, Running


@pytest.fixture(scope="module")
def module_server() -> Iterator[Running]:
    with Running() as running:
        yield running


@pytest.fixture
def server(module_server: Running) -> Running:
    """The module's server with an empty ``seen`` queue and ``release`` not set."""
    module_server.service.seen.queue.clear()
    module_server.on_loop(module_server.service.release.clear)
    return module_server


@pytest.fixture
def client(server: Running) -> Iterator[RawClient]:
    raw = RawClient(server.port)
    yield raw
    raw.close()


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as opened:
        yield opened
