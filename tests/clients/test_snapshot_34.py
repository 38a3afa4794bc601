"""Snapshots to and from etcd 3.4, as Debian has it: older than etcdutl and storageVersion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.install import ETCD_34, ETCDCTL_34
from tests.e2e.cluster import Cluster
from tests.e2e.snapshots import OURS, fill, restore, run, save, view

ETCDCTL_SNAPSHOT = (str(ETCDCTL_34), "snapshot")

pytestmark = pytest.mark.skipif(
    not (ETCD_34.exists() and ETCDCTL_34.exists()),
    reason="etcd 3.4 is not installed: see tests/clients/install.py",
)


def test_out_to_etcd_34_and_back(tmp_path: Path) -> None:
    """MNT-27: a store of ours goes on in etcd 3.4, and a snapshot of that goes on in ours."""
    (tmp_path / "first").mkdir()
    with Cluster(1, tmp_path / "first") as ours:
        ours.start_all()
        fill(ours.client(0))
        snapshot = save(ours, 0, tmp_path / "out.db")
        expected = view(ours.client(0), ours.client(0).get(b"k").header.revision)
    status = json.loads(run(*ETCDCTL_SNAPSHOT, "status", snapshot, "--write-out=json").stdout)
    assert status["revision"] == expected.revision

    (tmp_path / "etcd").mkdir()
    with Cluster(1, tmp_path / "etcd", program=[str(ETCD_34)]) as etcd:
        restore(ETCDCTL_SNAPSHOT, snapshot, etcd)
        etcd.start_all()
        assert view(etcd.client(0), expected.revision) == expected
        added = etcd.client(0).put(b"written by 3.4").header.revision
        assert added == expected.revision + 1
        back = save(etcd, 0, tmp_path / "back.db")

    (tmp_path / "last").mkdir()
    with Cluster(1, tmp_path / "last") as again:
        restore(OURS, back, again)
        again.start_all()
        assert view(again.client(0), expected.revision) == expected
        assert again.client(0).get(b"written by 3.4").kvs[0].mod_revision == added
