"""The operator: adds, promotes, updates, removes and replaces members while faults come and go.

He asks as the Cluster service does, without its checks before the proposal: those are advice about
availability, and safety must not depend on advice. What keeps the cluster able to recover is left
to him: a member whose disk is lost is removed before anything else is done.
"""

from __future__ import annotations

from collections.abc import Callable

from jepsen.sim.checks import Checks
from jepsen.sim.loop import Loop, Violation
from jepsen.sim.node import Node
from jepsen.sim.plan import Plan
from kvstore.errors import MEMBER_NOT_ENOUGH_STARTED, STOPPED, TIMEOUT, EtcdError
from kvstore.membership import changes
from kvstore.membership.cluster import MemberInfo
from kvstore.node.member import Result
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2

MAX_VOTERS = 6
MAX_LEARNERS = 1
GIVE_UP_S = 6.0
"""The operator's own deadline for a change; the server has none (CLU-15)."""
LOOK_S = 0.5
"""Pause between two looks for members that have been added and not been made yet."""


class Operator:
    """Draws a change now and then. `make` builds the machine of a new member."""

    def __init__(
        self, plan: Plan, loop: Loop, checks: Checks, make: Callable[[str, int], Node]
    ) -> None:
        self.stopped = False
        self._loop = loop
        self._checks = checks
        self._make = make
        self._random = plan.stream("operator")
        self._mean_pause_s = self._random.choice((0.5, 2.0))
        self._names: dict[int, str] = {}
        self._changes = 0
        self._lost: Node | None = None
        self._uncertain = False
        """A removal had no answer: it may be committed at any time, so nobody else may be lost."""
        self._open: set[int] = set()
        """Changes without an answer."""

    def start(self) -> None:
        self._later()
        self._look()

    def _later(self) -> None:
        pause = self._random.expovariate(1 / self._mean_pause_s)
        self._loop.after(pause, "operator", self._act)

    def _look(self) -> None:
        """Make and start the members that were added; be it that nobody was told so."""
        for member_id in sorted(self._checks.cluster.members):
            if member_id in self._names:
                self._checks.count("member started")
                self._make(self._names.pop(member_id), member_id).start()
        self._loop.after(LOOK_S, "operator looks", self._look)

    def _act(self) -> None:
        if self.stopped:
            return
        self._later()
        random, cluster = self._random, self._checks.cluster
        if self._lost is not None:
            if self._lost.id in cluster.members:
                self._remove(self._lost.id)
            else:
                self._lost = None
                self._add(learner=False)
            return
        if self._open and random.random() < 0.5:
            return  # sometimes several at once: they have to wait for each other
        voters = sorted(info.id for info in cluster.voters())
        learners = sorted(set(cluster.members) - set(voters))
        kinds: list[Callable[[], None]] = [self._update]
        if len(voters) < MAX_VOTERS:
            kinds += [lambda: self._add(learner=False), lambda: self._add(learner=True)]
            kinds += [lambda: self._add(learner=True)] * (len(learners) >= MAX_LEARNERS)
        if learners:
            kinds += [lambda: self._promote(random.choice(learners))] * 2
        if len(voters) > 2:
            kinds += [lambda: self._remove(random.choice(voters)), self._lose]
        if len(voters) > 3 or (len(voters) == 2 and not self._open):
            kinds += [lambda: self._remove(random.choice(sorted(cluster.members)))] * 2
        random.choice(kinds)()

    # Changes.

    def _add(self, *, learner: bool) -> None:
        self._changes += 1
        name = f"x{self._changes}"
        info = MemberInfo(self._random.getrandbits(63) + 1, "", (f"http://{name}",), (), learner)
        self._names[info.id] = name

        def answered(body: bytes) -> None:
            answer = rpc_pb2.MemberAddResponse.FromString(body)
            if answer.member != info.to_pb() or answer.member not in answer.members:
                raise Violation(f"the addition of {info} was answered {answer}")
            self._must(info.id in self._checks.cluster.members or self._removed(info.id), name)

        what = "learner added" if learner else "member added"
        self._propose(Kind.MEMBER_ADD, changes.encode_add(info, MAX_LEARNERS), what, answered)

    def _remove(self, member_id: int) -> None:
        def answered(body: bytes) -> None:
            rpc_pb2.MemberRemoveResponse.FromString(body)
            self._must(self._removed(member_id), f"removal of {member_id:x}")

        self._propose(Kind.MEMBER_REMOVE, changes.encode_id(member_id), "member removed", answered)

    def _promote(self, member_id: int) -> None:
        def answered(body: bytes) -> None:
            rpc_pb2.MemberPromoteResponse.FromString(body)
            voters = {info.id for info in self._checks.cluster.voters()}
            self._must(member_id in voters or self._removed(member_id), "promotion")

        body = changes.encode_id(member_id)
        self._propose(Kind.MEMBER_PROMOTE, body, "learner promoted", answered)

    def _update(self) -> None:
        """Not a conf change: an entry like any other."""
        asked = self._asked()
        if asked is None:
            return
        self._changes += 1
        member_id = self._random.choice(sorted(self._checks.cluster.members))
        body = changes.encode_update(member_id, (f"http://update{self._changes}",))
        counted = self._checks.count

        def done(result: Result) -> None:
            counted("member updated" if isinstance(result, bytes) else result.message)

        try:
            asked.member.propose(Kind.MEMBER_UPDATE, body, done)
        except EtcdError as error:
            counted(error.message)

    def _lose(self) -> None:
        """A voter's machine is gone for good. Until it is removed nothing else happens."""
        if self._open or self._uncertain:
            return
        nodes = [node for node in self._checks.members() if node.id not in self._names]
        if len(nodes) < len(self._checks.cluster.members):
            return  # somebody is not there yet: the others are needed
        node = self._random.choice(nodes)
        self._checks.count("disk lost")
        if node.up:
            node.crash()
        node.gone = True
        self._lost = node

    # Asking.

    def _asked(self) -> Node | None:
        up = [node for node in self._checks.nodes if node.serves_all]
        return self._random.choice(up) if up else None

    def _propose(
        self, kind: Kind, body: bytes, what: str, answered: Callable[[bytes], None]
    ) -> None:
        node, checks = self._asked(), self._checks
        if node is None:
            return
        member, life = node.member, node.process.life
        number = self._changes = self._changes + 1
        self._open.add(number)
        self._loop.trace(f"operator asks {node.name}: {what} {body.decode()}")

        def done(result: Result) -> None:
            if number not in self._open:
                raise Violation(f"{what} was answered twice, or after its asker had gone")
            self._open.discard(number)
            checks.count(what if isinstance(result, bytes) else f"{what}: {result.message}")
            # The checks see what was committed when this event is over.
            self._loop.after(0, f"operator is told: {what}", lambda: judge(result))

        def judge(result: Result) -> None:
            if isinstance(result, bytes):
                answered(result)
            else:
                self._refused(kind, body, result)

        def give_up() -> None:
            if number in self._open:
                checks.count(f"{what}: no answer")
                self._uncertain |= kind == Kind.MEMBER_REMOVE
                self._open.discard(number)
                if node.process.life == life:
                    member.changes.forget(request_id)

        request_id = 0
        try:
            request_id = member.propose_change(kind, body, done)
        except EtcdError as error:
            self._open.discard(number)
            checks.count(f"{what}: {error.message}")
            return
        self._loop.after(GIVE_UP_S, "operator gives up", give_up)

    def _refused(self, kind: Kind, body: bytes, error: EtcdError) -> None:
        """A refusal is the truth: nothing was done, or there was no need to."""
        if error in (TIMEOUT, STOPPED):
            self._uncertain |= kind == Kind.MEMBER_REMOVE
            return
        cluster = self._checks.cluster
        if kind == Kind.MEMBER_ADD:
            info, _ = changes.decode_add(body)
            self._must(info.id not in cluster.members and info.is_learner, f"{info} {error}")
            return
        member_id = changes.decode_id(body)
        if kind == Kind.MEMBER_REMOVE and error is MEMBER_NOT_ENOUGH_STARTED:
            return
        gone = member_id not in cluster.members
        voter = not gone and not cluster.members[member_id].is_learner
        self._must(gone or (kind == Kind.MEMBER_PROMOTE and voter), f"{kind!r} {error}")

    def _removed(self, member_id: int) -> bool:
        return member_id in self._checks.cluster.removed

    def _must(self, truth: bool, what: str) -> None:
        if not truth:
            raise Violation(f"the operator was told a lie: {what}: {self._checks.cluster.members}")
