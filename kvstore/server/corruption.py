"""Compares this member's data with the others': at the start, now and then, after compactions.

The members' hashes come by peer calls; who is to blame is decided in `node.corruption`. A CORRUPT
alarm is a log entry like any other, so it needs a quorum, and stops all writes (MNT-11).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from kvstore.errors import LEADER_CHANGED, EtcdError
from kvstore.mvcc.hash import HashKV
from kvstore.node.corruption import Answer, Answers, compare, differing, suspects_of_periodic_check
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.peer_calls import PeerCalls, PeerMethod
from kvstore.storage.errors import CorruptBackend

log = logging.getLogger("corruption")

CATCH_UP_S: Final = 2.0
"""So long a member that is asked about a revision waits until it has applied it."""
CONNECT_S: Final = 3.0
"""So long the initial check waits for the connection to a member before it passes it over."""
POLL_S: Final = 0.02


class DataInconsistency(Exception):
    """This member's data differ from another's: it must not start."""


class CorruptionChecker:
    """The three checks, and the alarm they raise."""

    def __init__(
        self, core: Core, calls: PeerCalls, hash_kv: Callable[[int], Awaitable[HashKV]]
    ) -> None:
        """Args: hash_kv: hashes this member's data at a revision, 0 being the current one."""
        self._core = core
        self._hash_kv = hash_kv
        self._checked_revision = 0
        """The newest compaction that all members were compared at."""
        self._alarming: dict[int, asyncio.Task[None]] = {}
        """Member -> the proposal of its alarm that is under way."""
        calls.register(PeerMethod.HASH_KV, self._answer)

    # Asking and answering.

    async def _answer(self, payload: bytes) -> bytes:
        """Hash for another member; a revision that is not applied yet is waited for a while."""
        store, loop = self._core.store, self._core.loop
        revision = rpc_pb2.HashKVRequest.FromString(payload).revision
        give_up = loop.time() + CATCH_UP_S
        while revision > store.revision and loop.time() < give_up:
            await asyncio.sleep(POLL_S)
        found = await self._own(revision)
        response = rpc_pb2.HashKVResponse(
            header=rpc_pb2.ResponseHeader(revision=store.revision),
            hash=found.hash,
            compact_revision=found.compact_revision,
            hash_revision=found.hash_revision,
        )
        return response.SerializeToString()

    async def _own(self, revision: int) -> HashKV:
        try:
            return await self._hash_kv(revision)
        except CorruptBackend as error:
            self.damaged(error)
            raise

    async def _ask_all(self, revision: int) -> Answers:
        """Ask every other member at once."""
        own_id = self._core.member.raft.id
        others = [peer for peer in sorted(self._core.cluster.members) if peer != own_id]
        answers = await asyncio.gather(*(self._ask(peer, revision) for peer in others))
        return dict(zip(others, answers, strict=True))

    async def _ask(self, member_id: int, revision: int) -> Answer | None:
        payload = rpc_pb2.HashKVRequest(revision=revision).SerializeToString()
        timeout = self._core.request_timeout_s
        try:
            raw = await self._core.peer_call(member_id, PeerMethod.HASH_KV, payload, timeout)
        except (EtcdError, ConnectionError, TimeoutError) as error:
            text = str(error) or type(error).__name__
            log.warning(
                "failed hash kv request: %s",
                text,
                extra={"requested-revision": revision, "remote-peer-id": f"{member_id:x}"},
            )
            return None
        response = rpc_pb2.HashKVResponse.FromString(raw)
        found = HashKV(response.hash, response.compact_revision, response.hash_revision)
        return Answer(found, response.header.revision)

    # The initial check.

    async def check_at_start(self, connected: Callable[[int], bool]) -> None:
        """Compare before any client is served (gate InitialCorruptCheck, MNT-24).

        Args:
            connected: whether there is a connection to a member.

        Raises:
            DataInconsistency: another member has other data at an equal compact revision.
        """
        while True:
            try:
                own = await self._own(0)
                break
            except EtcdError as error:
                if error.message != LEADER_CHANGED.message:
                    raise  # else a snapshot was installed in between: hash what is there now
        loop, own_id = self._core.loop, self._core.member.raft.id
        give_up = loop.time() + CONNECT_S
        others = [peer for peer in self._core.cluster.members if peer != own_id]
        while not all(map(connected, others)) and loop.time() < give_up:
            await asyncio.sleep(POLL_S)
        found = differing(own, await self._ask_all(own.hash_revision))
        if found:
            raise DataInconsistency(
                f"{own_id:x} found data inconsistency with peers"
                f" {', '.join(f'{member_id:x}' for member_id in found)}"
                f" at revision {own.hash_revision}"
            )
        log.info("initial corruption checking passed; no corruption")

    # The leader's checks.

    async def check_periodically(self, interval_s: float) -> None:
        """Compare all members' data for ever, while this one leads (``--corrupt-check-time``)."""
        while True:
            await asyncio.sleep(interval_s)
            if self._core.member.is_leader:
                try:
                    await self._check_data()
                except (EtcdError, CorruptBackend) as error:
                    log.warning("failed to check hash KV: %s", error)

    async def _check_data(self) -> None:
        before = await self._own(0)
        answers = await self._ask_all(before.hash_revision)
        await self._core.fresh()
        after = Answer(await self._own(0), self._core.store.revision)
        own_id = self._core.member.raft.id
        self._blame(suspects_of_periodic_check(own_id, before, after, answers), before)
        checked = sum(answer is not None for answer in answers.values())
        log.info("finished peer corruption check", extra={"number-of-peers-checked": checked})

    async def check_compactions(self, interval_s: float) -> None:
        """Compare compactions' hashes for ever, while this member leads (gate CompactHashCheck)."""
        while True:
            await asyncio.sleep(interval_s)
            if self._core.member.is_leader:
                await self._check_compactions()

    async def _check_compactions(self) -> None:
        """Compare from the newest on, until all members could be compared at one."""
        own_id = self._core.member.raft.id
        for own in self._core.store.compaction_hashes.newest_first():
            if own.hash_revision <= self._checked_revision:
                return
            verdict = compare(own_id, own, await self._ask_all(own.hash_revision))
            self._blame(verdict.suspects, own)
            if verdict.complete:
                if not verdict.suspects:
                    self._checked_revision = own.hash_revision
                    log.info(
                        "successfully checked hash on whole cluster",
                        extra={"revision": own.hash_revision},
                    )
                return

    # The alarm.

    def damaged(self, error: Exception) -> None:
        """A value of this member does not match its checksum."""
        if isinstance(error, CorruptBackend):
            log.error("found damaged data: %s", error)
            self._raise_alarm(self._core.member.raft.id)

    def _blame(self, suspects: list[int], own: HashKV) -> None:
        for member_id in suspects:
            log.error(
                "found different data",
                extra={
                    "suspect": f"{member_id:x}",
                    "revision": own.hash_revision,
                    "compact-revision": own.compact_revision,
                },
            )
            self._raise_alarm(member_id)

    def _raise_alarm(self, member_id: int) -> None:
        """Propose the CORRUPT alarm unless it is raised; the next check repeats what fails."""
        if self._core.member.applier.alarms.has(member_id, rpc_pb2.CORRUPT):
            return
        if member_id not in self._alarming:
            task = asyncio.ensure_future(self._propose_alarm(member_id))
            self._alarming[member_id] = task
            task.add_done_callback(lambda _: self._alarming.pop(member_id))

    async def _propose_alarm(self, member_id: int) -> None:
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=member_id, alarm=rpc_pb2.CORRUPT
        )
        try:
            await self._core.propose(Kind.ALARM, request.SerializeToString())
        except EtcdError as error:
            log.warning("could not raise the CORRUPT alarm: %s", error)
