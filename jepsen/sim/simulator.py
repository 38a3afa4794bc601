"""A run: a cluster, its clients and its faults from one seed, judged from beginning to end.

First faults come and go for `chaos_s`, then everything is healed, and the cluster must have a
leader and answer within `RECOVERY_S`, come to one state, expire its leases and serve its watches to
the end. `run` returns what happened, or raises `Violation` with the seed and the last events.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from jepsen.sim.checks import Checks
from jepsen.sim.faults import Faults
from jepsen.sim.loop import Loop, Violation
from jepsen.sim.membership import Operator
from jepsen.sim.network import Network
from jepsen.sim.node import Node, bootstrapped, joining
from jepsen.sim.plan import Plan
from jepsen.sim.record import Recorder
from jepsen.sim.transactions import Transactor
from jepsen.sim.watchers import Watcher
from jepsen.sim.workload import Client
from jepsen.verdict import Validity
from kvstore.membership.cluster import Cluster
from kvstore.membership.ids import compute_member_id
from kvstore.node.member import Result
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.storage.memory_backend import MemoryBackend
from kvstore.storage.wal_replay import LogState

RECOVERY_S = 10.0
"""After healing: the time until every member has had a write acknowledged. Enough for some
elections (1 to 2 s each) and a request's time-out (2 s)."""
MAX_CLIENTS = 8
MAX_WATCHERS = 4
SETTLE_S = 25.0
"""After that, without new requests: the time until leases (5 s at most, and up to an election and
retries of 3 s more) have expired and everything is applied everywhere."""

LOOK_EVERY = 32
"""Events between two looks at whether everything has settled."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    seed: int
    members: int
    events: int
    virtual_s: float
    revision: int
    terms: int
    counts: dict[str, int]
    trace_hash: str
    faults: int
    """How many were drawn."""


class Simulation:
    """One cluster. Make it, then `run` it, once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = Loop(plan.seed)
        random = plan.stream("cluster")
        self.network = Network(self.loop)
        self._folder = TemporaryDirectory(prefix="sim-", dir=_memory()) if plan.on_files else None
        drawn = random.choice((3, 3, 3, 4, 5, 5, 7, 1))
        initial = {f"n{i}": (f"http://n{i}",) for i in range(1, (plan.members or drawn) + 1)}
        self.checks = Checks(self.loop, Cluster.bootstrap(MemoryBackend(), initial, "sim"))
        self.loop.look = self.checks.observe
        self.nodes = self.checks.nodes
        drawn_pre_vote = plan.stream("pre-vote").random() < 0.7
        self._pre_vote = drawn_pre_vote if plan.pre_vote is None else plan.pre_vote
        self._snapshot_count = random.choice((8, 20, 60))
        for name, urls in initial.items():
            self._make(name, compute_member_id(urls, "sim"), bootstrapped(initial))
        think_s, clients = random.choice((0.03, 0.1, 0.3)), random.randint(2, MAX_CLIENTS)
        self.recorder = Recorder(self.loop)
        self.clients = [
            Client(i, plan, self.loop, self.nodes, self.checks, self.recorder, think_s)
            for i in range(clients if plan.clients < 0 else plan.clients)
        ]
        transactors = random.choice((0, 1, 1, 2))
        self.transactors = [
            Transactor(i, plan, self.loop, self.nodes, self.checks)
            for i in range(transactors if plan.transactors < 0 else plan.transactors)
        ]
        self.watchers = [
            Watcher(i, plan, self.loop, self.nodes, self.checks, self.recorder)
            for i in range(MAX_WATCHERS if plan.watchers < 0 else plan.watchers)
        ]
        self.faults = Faults(plan, self.loop, self.network, self.nodes, self.checks)
        changes = random.random() < 0.5
        self.operator = Operator(plan, self.loop, self.checks, self._join)
        self.operator.stopped = not (changes if plan.changes is None else plan.changes)

    def _make(self, name: str, member_id: int, state: tuple[MemoryBackend, LogState]) -> Node:
        node = Node(
            name,
            member_id,
            self.loop,
            self.network,
            self.checks,
            self._snapshot_count,
            state,
            Path(self._folder.name) / name if self._folder is not None else None,
            pre_vote=self._pre_vote,
        )
        self.nodes.append(node)
        self.network.endpoints[member_id] = node
        return node

    def _join(self, name: str, member_id: int) -> Node:
        """Make a member that was added; it has asked somebody for the member list."""
        return self._make(name, member_id, joining(self.checks.cluster))

    def run(self) -> Outcome:
        """Raises Violation for any promise broken, any exception of the members included."""
        try:
            self._chaos()
            self._recover()
            self._settle()
            self.checks.final()
            for verdict in self.recorder.judge(self.checks.written()):
                if verdict.validity is Validity.UNKNOWN:
                    self.checks.count(f"history not judged: {verdict.checker}")
        except Exception as error:
            lines = "\n".join(self.loop.recent())
            raise Violation(
                f"seed {self.plan.seed} at {self.loop.now:.6f} s: {type(error).__name__}: {error}\n"
                f"Repeat (--trace prints all events):\n  {self.plan.command()}\n"
                f"Last events:\n{lines}"
            ) from error
        finally:
            self.close()
        return self.outcome()

    def close(self) -> None:
        """End what still runs; nothing may be left to the garbage collector's time."""
        for node in self.nodes:
            node.aio.bury()
            node.disk.close()
            node.backend.close()
        if self._folder is not None:
            self._folder.cleanup()

    def outcome(self) -> Outcome:
        """What happened so far."""
        return Outcome(
            self.plan.seed,
            len(self.nodes),
            self.loop.events,
            self.loop.now,
            1 + len(self.checks.revisions),
            max(self.checks.leaders, default=0),
            dict(sorted(self.checks.counts.items())),
            self.loop.trace_hash(),
            self.faults.struck,
        )

    def _run_for(self, seconds: float, done: Callable[[], bool] | None = None) -> bool:
        return self.loop.run_until(self.loop.now + seconds, done)

    def _chaos(self) -> None:
        for node in list(self.nodes):
            node.start()
        for client in self._askers():
            client.start()
        for watcher in self.watchers:
            watcher.start()
        self.faults.start()
        self.operator.start()
        self._run_for(self.plan.chaos_s)

    def _askers(self) -> list[Client | Transactor]:
        return [*self.clients, *self.transactors]

    def _recover(self) -> None:
        """Heal; every member must get a write through in time."""
        self.operator.stopped = True
        self.faults.stop()
        waiting = {node.name for node in self.checks.members() if node.published}
        for node in self.nodes:
            if node.name in waiting:
                self._probe(node, waiting)

        def done() -> bool:  # a change under way may still remove one of them
            return waiting.isdisjoint(node.name for node in self.checks.members())

        if not self._run_for(RECOVERY_S, done):
            states = {
                node.name: (node.member.raft.role.value, node.member.raft.term)
                for node in self.nodes
                if node.up
            }
            raise Violation(
                f"no write through {sorted(waiting)} within {RECOVERY_S} s of healing: {states}"
            )

    def _probe(self, node: Node, waiting: set[str]) -> None:
        def done(result: Result) -> None:
            if isinstance(result, bytes):
                waiting.discard(node.name)
            elif node.up:
                self.loop.after(
                    0.05, f"{node.name} probe again", lambda: self._probe(node, waiting)
                )

        self.checks.count("probe")
        value = f"probe/{self.checks.counts['probe']}".encode()
        request = rpc_pb2.PutRequest(key=b"probe", value=value)
        node.member.propose(Kind.PUT, request.SerializeToString(), done)

    def _settle(self) -> None:
        """No more requests: leases end, members come to one state, watches get everything."""
        for client in self._askers():
            client.stopped = True

        def settled() -> bool:  # a long look: not behind each event
            return self.loop.events % LOOK_EVERY == 0 and not self._unsettled()

        if not self._run_for(SETTLE_S, settled) and self._unsettled():
            raise Violation(f"not settled {SETTLE_S} s after the last request: {self._unsettled()}")

    def _unsettled(self) -> str:
        for node in self.checks.members():
            if not node.up or not node.published:
                return f"{node.name} is not there yet"
            if len(node.lessor):
                return f"{node.name} has leases {node.lessor.ids()}"
            if node.store.finished_compact_revision < node.store.compact_revision:
                return f"{node.name} has not compacted up to {node.store.compact_revision}"
        if reason := self.checks.converged():
            return reason
        for watcher in self.watchers:
            if watcher.missing():
                return f"{watcher.name} has seen up to {watcher.next_revision}"
        return ""


def _memory() -> str | None:
    """A folder in memory, where files are fast and nothing needs to last."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(plan: Plan) -> Outcome:
    """Run one simulation."""
    return Simulation(plan).run()
