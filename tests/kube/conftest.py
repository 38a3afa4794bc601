"""A three-node cluster for each module of the tests with kube-apiserver's requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.conftest import progress_flag


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members that stay up for a whole module; tests use resources of their own."""
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(3, folder, extra_flags=[progress_flag("300ms")]) as running:
        running.start_all()
        yield running
