"""Runs a schedule of `node.auto_compaction` on the event loop and proposes what is due."""

from __future__ import annotations

import asyncio
import logging

from kvstore.errors import COMPACTED, EtcdError
from kvstore.node.auto_compaction import PeriodicSchedule, RevisionSchedule, Schedule
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.server.config import PERIODIC, AutoCompaction

log = logging.getLogger("compactor")


async def compact_by_schedule(core: Core, setting: AutoCompaction) -> None:
    """Compact for ever, while this member leads (CMP-12)."""
    schedule: Schedule
    if setting.mode == PERIODIC:
        schedule = PeriodicSchedule(setting.retention, core.loop.time(), core.store.revision)
    else:
        schedule = RevisionSchedule(int(setting.retention))
    while True:
        await asyncio.sleep(schedule.interval_s)
        revision = schedule.due(core.loop.time(), core.store.revision, core.member.is_leader)
        if revision is not None and await _compact(core, setting, revision):
            schedule.compacted(core.loop.time(), revision)


async def _compact(core: Core, setting: AutoCompaction, revision: int) -> bool:
    fields = {"revision": revision, "retention": setting.retention}
    request = rpc_pb2.CompactionRequest(revision=revision)
    try:
        await core.propose(Kind.COMPACT, request.SerializeToString())
    except EtcdError as error:
        if error.message != COMPACTED.message:
            log.warning("failed auto %s compaction: %s", setting.mode, error, extra=fields)
            return False
    log.info("completed auto %s compaction", setting.mode, extra=fields)
    return True
