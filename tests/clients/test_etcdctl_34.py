"""Debian's etcdctl 3.4 keeps the promises that etcdctl 3.5 keeps, on the same server.

The tests are those of etcdctl 3.5, run again with the other program, without the few whose options
or output 3.4 does not have.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.install import ETCDCTL_34
from tests.e2e import test_etcdctl, test_etcdctl_cluster
from tests.e2e.cluster import Cluster
from tests.e2e.etcdctl import ok

_NEWER = {
    "test_get_prints_values_only_or_counts_only",  # get --count-only
    "test_watch_progress_notify_reports_the_revision",  # prints it otherwise
    "test_endpoint_health",  # prints to standard error
    "test_endpoint_status_names_one_leader",  # fewer columns
    "test_endpoint_hashkv_agrees_on_all_members",  # no --rev
    "test_small_load_like_check_perf",  # get --count-only
}

for _module in (test_etcdctl, test_etcdctl_cluster):
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and _name not in _NEWER:
            globals()[_name] = _test

fruit = test_etcdctl.fruit


@pytest.fixture(scope="module", autouse=True)
def etcdctl_34() -> Iterator[None]:
    if not ETCDCTL_34.exists():
        pytest.skip("etcdctl 3.4 is not installed: see tests/clients/install.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETCDCTL_BIN", str(ETCDCTL_34))
        yield


def test_it_is_34(cluster: Cluster) -> None:
    assert ok(cluster.etcdctl("version")).startswith("etcdctl version: 3.4.")


def test_endpoint_health_34(cluster: Cluster) -> None:
    """OTH-01."""
    done = cluster.etcdctl("endpoint", "health", "--cluster")
    assert ok(done) == ""
    assert done.stderr.count("is healthy: successfully committed proposal") == 3


def test_endpoint_status_34(cluster: Cluster) -> None:
    rows = ok(cluster.etcdctl("endpoint", "status")).splitlines()
    assert len(rows) == 3
    assert sorted(row.split(", ")[4] for row in rows) == ["false", "false", "true"]


def test_endpoint_hashkv_34(cluster: Cluster) -> None:
    for endpoint in cluster.endpoints:  # a linearizable read brings each member up to date
        ok(cluster.etcdctl("get", "any", endpoints=[endpoint]))
    hashes = ok(cluster.etcdctl("endpoint", "hashkv")).splitlines()
    assert len({line.split(", ")[1] for line in hashes}) == 1
