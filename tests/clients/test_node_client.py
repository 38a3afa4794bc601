"""npm's client etcd3 (JavaScript): its calls work, and its watcher survives a member's death.

The program is `etcd3.js`; each test runs one step of it and looks at what it printed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.install import NODE_MODULES
from tests.e2e.cluster import Cluster

PROGRAM = Path(__file__).with_name("etcd3.js")
TIME_LIMIT_S = 60

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not NODE_MODULES.exists(),
    reason="node or its client etcd3 is not installed: see tests/clients/install.py",
)


def start(cluster: Cluster, step: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["node", str(PROGRAM), ",".join(cluster.endpoints), step],
        env={**os.environ, "NODE_PATH": str(NODE_MODULES)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        out, err = process.communicate(timeout=TIME_LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 0, err
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


def run(cluster: Cluster, step: str) -> dict[str, Any]:
    return finish(start(cluster, step))


def test_keys_and_values(cluster: Cluster) -> None:
    assert run(cluster, "kv") == {
        "step": "kv",
        "previous": "1",
        "all": {"node/b": "2", "node/a": "3"},
        "limited": ["node/a"],
        "count": 2,
        "missing": None,
        "binary": "00ff01",
        "deleted": "3",
    }


def test_transactions(cluster: Cluster) -> None:
    assert run(cluster, "txn") == {
        "step": "txn",
        "first": True,
        "second": False,
        "found": "created",
        "sameRevision": True,
    }


def test_leases(cluster: Cluster) -> None:
    """OTH-13: ids are strings, TTL 0 is a lost lease, errors are told by their text."""
    answer = run(cluster, "lease")
    assert (answer["id"], answer["gone"], answer["lost"]) == ("string", None, True)
    assert "requested lease not found" in answer["refused"]


def test_a_watcher_sees_puts_and_deletes(cluster: Cluster) -> None:
    puts = [["put", f"node/w/{i}", str(i)] for i in range(5)]
    assert run(cluster, "watch")["events"] == [*puts, ["delete", "node/w/0"]]


def test_a_watcher_starts_in_the_past(cluster: Cluster) -> None:
    assert run(cluster, "history")["seen"] == ["first", "second"]


def test_locks(cluster: Cluster) -> None:
    """CON-18: its lock is an ordinary key."""
    answer = run(cluster, "lock")
    assert (answer["second"], answer["again"]) == ("EtcdLockFailedError", "held")


def test_elections(cluster: Cluster) -> None:
    assert run(cluster, "election")["leader"] == "one"


def test_software_transactions(cluster: Cluster) -> None:
    """CON-16: concurrent increments are all there."""
    assert run(cluster, "stm")["value"] == "5"


def test_errors_have_the_texts_it_knows(cluster: Cluster) -> None:
    """OTH-13."""
    answer = run(cluster, "errors")
    assert "etcdserver: key is not provided" in answer["empty"][1]
    assert "etcdserver: mvcc: required revision is a future revision" in answer["future"][1]


def test_a_watcher_survives_the_death_of_members(tmp_path: Path) -> None:
    """OTH-12: after each death it resumes from the last header revision, and misses nothing."""
    with Cluster(3, tmp_path) as cluster:
        cluster.start_all()
        process = start(cluster, "follow")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"following": True}
        for i in range(3):
            cluster.kill(i)
            cluster.start(i)
            cluster.wait_healthy()
        seen = finish(process)["seen"]
    assert seen == [f"node/f/{i}" for i in range(1, 301)]
