"""The last look of a run leaves nothing out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from jepsen.chaos.client import Connection
from jepsen.chaos.recorder import Recorder, blank
from jepsen.history import Outcome
from jepsen.workloads.append import LAST_READS, Append
from kvstore.testing import Cluster


def test_all_lists_are_read_at_the_end_however_many_there_are(tmp_path: Path) -> None:
    """JEP-12: more than one transaction may read."""
    recorder = Recorder()
    keys = {f"append/{n}/0" for n in range(LAST_READS + 1)}
    steps = [["append", key, 1] for key in sorted(keys)]
    recorder.records.append(blank(0, "append", "txn", "", steps, "m0"))

    async def look(cluster: Cluster) -> None:
        member = cluster.members[0]
        connection = Connection(member.name, member.endpoint)
        await Append(recorder, Random(1)).end([connection])
        await connection.close()

    with Cluster(1, tmp_path, links=False) as cluster:
        cluster.start()
        asyncio.run(look(cluster))
    looks = [op for op in recorder.ops() if op.client == -1]
    assert all(op.outcome is Outcome.OK for op in looks)
    assert {key for op in looks for _, key, _ in op.result} == keys
