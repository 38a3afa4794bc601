"""How a member finds its state again, and what it refuses to start on."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kvstore.membership.cluster import Cluster, MemberInfo
from kvstore.node.bootstrap import first_position
from kvstore.node.member import store_applied
from kvstore.server import datadir
from kvstore.server.config import Config
from kvstore.storage.backend import REVISIONS
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.wal import Wal
from raft import HardState, SnapshotMeta


def config_for(folder: Path) -> Config:
    return Config(
        name="m1", data_dir=str(folder), initial_cluster=(("m1", ("http://localhost:2380",)),)
    )


def close(state: datadir.State) -> None:
    state.wal.close()
    state.backend.close()


def started(config: Config) -> None:
    """Leave behind what a first start makes."""
    close(datadir.open_state(config))


def test_a_second_start_finds_the_member_that_the_first_made(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    first = datadir.open_state(config)
    close(first)
    second = datadir.open_state(config)
    close(second)
    assert (first.fresh, second.fresh) == (True, False)
    assert second.member_id == first.member_id
    assert second.cluster.members == first.cluster.members


def test_data_whose_log_is_missing_are_never_started_over(tmp_path: Path) -> None:
    """A forgotten --wal-dir must not look like a first start: that would wipe the store."""
    config = replace(config_for(tmp_path / "data"), wal_dir=str(tmp_path / "wal"))
    state = datadir.open_state(config)
    store_applied(state.backend, state.applied._replace(index=7, term=1))
    state.backend.commit()
    close(state)
    with pytest.raises(datadir.DataDirError, match="its log is missing"):
        datadir.open_state(replace(config, wal_dir=""))
    assert datadir.position_of(tmp_path / "data/member/snap/db").index == 7


def test_restored_data_whose_log_was_not_made_are_never_started_over(tmp_path: Path) -> None:
    """They are at the first index, as an empty first start is, but they are not empty."""
    snap = tmp_path / "member" / "snap"
    snap.mkdir(parents=True)
    backend = LmdbBackend(str(snap / "db"))
    store_applied(backend, first_position([1]))
    backend.put(REVISIONS, bytes(16), b"kv")
    backend.commit()
    backend.close()
    with pytest.raises(datadir.DataDirError, match="its log is missing"):
        datadir.open_state(config_for(tmp_path))


def test_a_created_member_starts_with_the_data_it_was_given(tmp_path: Path) -> None:
    """All its members are voters from index 1 on; ids and data are those handed in."""
    snap, wal = tmp_path / "member/snap", tmp_path / "member/wal"
    snap.mkdir(parents=True)
    backend = LmdbBackend(str(snap / "db"))
    backend.put(REVISIONS, bytes(16), b"kv")
    store_applied(backend, SnapshotMeta(77, 5))
    initial = {"m1": ("http://localhost:2380",), "m2": ("http://localhost:2390",)}
    cluster = Cluster.bootstrap(backend, initial, "token")
    member_id = max(cluster.members)
    datadir.create_member(wal, backend, cluster, member_id)
    backend.close()

    state = datadir.open_state(config_for(tmp_path))

    assert (state.fresh, state.member_id, state.applied.index) == (False, member_id, 1)
    assert state.applied.conf_state.voters == tuple(sorted(cluster.members))
    assert state.recovered.hard_state == HardState(1, 0, 1)
    assert state.backend.get(REVISIONS, bytes(16)) == b"kv"
    close(state)


def test_a_first_start_that_was_cut_short_begins_again(tmp_path: Path) -> None:
    """The log is made last; what was made before it does not count."""
    snap = tmp_path / "member" / "snap"
    snap.mkdir(parents=True)
    backend = LmdbBackend(str(snap / "db"))
    store_applied(backend, first_position([1]))
    backend.commit()
    backend.close()
    state = datadir.open_state(config_for(tmp_path))
    close(state)
    assert state.fresh


def test_a_missing_backend_is_named(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    started(config)
    os.unlink(tmp_path / "member/snap/db")
    with pytest.raises(datadir.DataDirError, match=r"snap/db is missing"):
        datadir.open_state(config)


def test_a_backend_ahead_of_its_log_is_refused(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    state = datadir.open_state(config)
    store_applied(state.backend, state.applied._replace(index=50))
    state.backend.commit()
    close(state)
    with pytest.raises(datadir.DataDirError, match="one of the two was replaced or lost"):
        datadir.open_state(config)


def test_data_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    metadata = {"version": datadir.FORMAT_VERSION + 1, "member_id": 1, "cluster_id": 1}
    Wal.create(str(tmp_path / "member/wal"), json.dumps(metadata).encode()).close()
    with pytest.raises(datadir.DataDirError, match="format version 2"):
        datadir.open_state(config)


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    held = datadir.lock(tmp_path)
    try:
        with pytest.raises(datadir.DataDirError, match="in use by another process"):
            datadir.lock(tmp_path)
    finally:
        os.close(held)


def test_data_of_a_removed_member_say_so(tmp_path: Path) -> None:
    """CLU-11."""
    config = config_for(tmp_path)
    state = datadir.open_state(config)
    state.cluster.add(MemberInfo(7, "", ("http://localhost:1",)), max_learners=0)
    state.cluster.remove(state.member_id)
    state.backend.commit()
    close(state)
    with pytest.raises(datadir.MemberRemoved, match="permanently removed"):
        datadir.open_state(config)


def test_received_snapshots_left_by_a_crash_are_removed(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    started(config)
    snap = tmp_path / "member/snap"
    left = [datadir.received_snapshot(snap, 9), snap / "x.snap.receiving"]
    for path in left:
        path.write_bytes(b"half")
    close(datadir.open_state(config))
    assert not any(path.exists() for path in left)
