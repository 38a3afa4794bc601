"""What a member looks at when it is asked whether it is well: /health, /livez, /readyz.

All checks read through the store or the log as a client would, but with nobody's rights: there is
no user behind a probe.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvstore.apply.alarms import Alarms
from kvstore.apply.kv import range_body_steps
from kvstore.errors import EtcdError
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.exposition import Value
from kvstore.rpc.http import Handler
from kvstore.rpc.probes import Check, ProbeCounts, probe_routes
from kvstore.storage.errors import StorageError

_ONE_KEY = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", limit=1, keys_only=True)


class HealthChecks:
    """The checks of one member, and how they came out so far."""

    def __init__(self, core: Core, alarms: Alarms) -> None:
        self._core = core
        self._alarms = alarms
        self._succeeded = 0
        self._failed = 0
        self._counts = ProbeCounts()

    async def health(self, excluded: frozenset[str], serializable: bool) -> tuple[bool, str]:
        """Run the checks of /health: alarms, leader, a read, in this order (HTP-02).

        Args:
            excluded: names of alarms to overlook.
            serializable: ask this member alone: no leader needed, a local read.

        Returns:
            (healthy, reason; empty when healthy).
        """
        reason = await self._unhealthy(excluded, serializable)
        if reason:
            self._failed += 1
        else:
            self._succeeded += 1
        return not reason, reason

    async def _unhealthy(self, excluded: frozenset[str], serializable: bool) -> str:
        for _, alarm in self._alarms.active():
            name = rpc_pb2.AlarmType.Name(alarm)
            if name not in excluded:
                return f"ALARM {name}"
        if not serializable and not self._core.member.raft.leader:
            return "RAFT NO LEADER"
        failure = await self._local_read() if serializable else await self._quorum_read()
        return f"RANGE ERROR:{failure}" if failure else ""

    def probe_routes(self) -> dict[str, Handler]:
        """The routes of /livez and /readyz (HTP-03)."""
        live: dict[str, Check] = {"serializable_read": self._local_read}
        ready: dict[str, Check] = {
            "data_corruption": self._no_corruption,
            "serializable_read": self._local_read,
            "linearizable_read": self._quorum_read,
            "non_learner": self._voter,
        }
        return {
            **probe_routes("livez", live, self._counts),
            **probe_routes("readyz", ready, self._counts),
        }

    def metrics(self) -> Mapping[str, Value]:
        """The results by etcd's names."""
        return {
            "etcd_server_health_success": self._succeeded,
            "etcd_server_health_failures": self._failed,
            "etcd_server_healthcheck": self._counts.last,
            "etcd_server_healthchecks_total": self._counts.results,
        }

    async def _local_read(self) -> str:
        try:
            for _ in range_body_steps(self._core.store, _ONE_KEY):
                pass
        except EtcdError as error:
            return error.message
        except StorageError as error:
            return str(error)
        return ""

    async def _quorum_read(self) -> str:
        try:
            await self._core.fresh()
        except EtcdError as error:
            return error.message
        return await self._local_read()

    async def _no_corruption(self) -> str:
        return "alarm activated: CORRUPT" if self._alarms.active(rpc_pb2.CORRUPT) else ""

    async def _voter(self) -> str:
        return "not supported for learner" if self._core.member.raft.is_learner else ""
