"""The pytest plugin: ``etcd``, one node, and ``etcd_cluster``, three, fresh for each test.

Both are a `kvstore.testing.Cluster` that serves already. A marker sets what it is made of::

    @pytest.mark.etcd(size=5, flags=["--quota-backend-bytes=1000000"])
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from kvstore.testing.cluster import Cluster

OPTIONS: Final = ("size", "flags", "program", "links", "client_links")
"""What the marker takes; see `Cluster`."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"etcd({', '.join(OPTIONS)}): what the etcd fixtures start")


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
    wanted: dict[str, Any] = {"size": size, **(_options(marker) if marker is not None else {})}
    with Cluster(wanted.pop("size"), tmp_path / "etcd", **wanted) as cluster:
        cluster.start()
        yield cluster


def _options(marker: pytest.Mark) -> dict[str, Any]:
    """The marker's options. Raises pytest.UsageError, naming one that there is not."""
    known = f"it takes {', '.join(OPTIONS)}"
    if marker.args:
        raise pytest.UsageError(f"@pytest.mark.etcd: {marker.args[0]!r} has no name; {known}")
    for name in marker.kwargs:
        if name not in OPTIONS:
            raise pytest.UsageError(f"@pytest.mark.etcd: there is no option {name!r}; {known}")
    return dict(marker.kwargs)
