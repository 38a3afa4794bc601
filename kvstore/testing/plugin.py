"""The pytest plugin: ``etcd``, one node, and ``etcd_cluster``, three, fresh for each test.

Both are a `kvstore.testing.Cluster` that serves already. A marker sets what it is made of::

    @pytest.mark.etcd(size=5, flags=["--quota-backend-bytes=1000000"])
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvstore.testing.cluster import Cluster


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "etcd(size, flags, program, links): what the etcd fixtures start"
    )


@pytest.fixture
def etcd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """One node that serves; ``etcd.endpoints[0]`` is its address."""
    yield from _serving(request, tmp_path, 1)


@pytest.fixture
def etcd_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes that serve, with links that can be cut."""
    yield from _serving(request, tmp_path, 3)


def _serving(request: pytest.FixtureRequest, tmp_path: Path, size: int) -> Iterator[Cluster]:
    marker = request.node.get_closest_marker("etcd")
    wanted: dict[str, Any] = {"size": size, **(marker.kwargs if marker is not None else {})}
    with Cluster(wanted.pop("size"), tmp_path / "etcd", **wanted) as cluster:
        cluster.start()
        yield cluster
