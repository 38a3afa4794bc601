"""A cluster for tests: real processes on free ports, and everything that can happen to them.

    with Cluster(3, directory) as cluster:
        cluster.start()
        leader = cluster.leader()
        with cluster.partitioned([leader]):      # the leader alone, the others together
            ...                                  # the application under test goes on
        cluster.kill(leader)

Members are numbered from 0, and a number stays with its member: one that was removed keeps it, one
that is added gets the next. All waits have a deadline and raise `NotInTime`; nothing here sleeps
for a fixed time. Between members stand the proxies of `links`, so partitions and slow links need no
privileges. The trade-off: every peer message crosses one more process, which costs throughput; give
``links=False`` where that matters, or ``network="namespaces"`` where there is root.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import grpc

from kvstore.pb import rpc_pb2
from kvstore.testing import membership
from kvstore.testing.links import CLIENTS, Link, Links
from kvstore.testing.namespaces import Namespaces
from kvstore.testing.network import Network
from kvstore.testing.processes import (
    PROGRAM,
    START_S,
    STOP_S,
    Member,
    MemberEnded,
    Place,
    free_ports,
    wait_until,
)

ASK_S = 1.0
"""Time-out of one question; a wait asks again until its own deadline."""

_OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
]


class Cluster:
    """Members on this machine. Leaving the context kills them; data stay in `directory`."""

    def __init__(
        self,
        size: int,
        directory: Path,
        *,
        program: Sequence[str] = PROGRAM,
        flags: Sequence[str] = (),
        links: bool = True,
        client_links: bool = False,
        network: Literal["proxies", "namespaces"] = "proxies",
    ) -> None:
        """Args:
        size: number of members, 1 to 9.
        directory: for the members' data and logs.
        program: what to start; it takes etcd's flags.
        flags: for every member, behind the ones made here, so they win.
        links: put proxies between the members.
        client_links: put proxies between the members and who dials `endpoints`, too (not in
            front of the questions asked here).
        network: "namespaces" gives members addresses of their own in a network of the kernel's,
            all links included; the questions asked here pass those to clients. Needs root and
            `unshare.enter`; raises NamespaceError (see `kvstore.testing.namespaces`).
        """
        if not 1 <= size <= 9:
            raise ValueError(f"size: {size} is not in 1..9")
        self.program = tuple(program)
        self.flags = tuple(flags)
        self._channels: dict[int, grpc.Channel] = {}
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        if used := next(directory.glob("m*.etcd"), None):
            raise ValueError(
                f"directory: {directory} holds the data of an earlier cluster ({used.name}), whose"
                " members had other addresses; give an empty one"
            )
        self.links: Links | Namespaces | None = None
        self._between_members, self.to_clients = links, client_links
        if network == "namespaces":
            self.links = Namespaces()
            self.to_clients = True
        elif links or client_links:
            self.links = Links()
        try:
            self.members = [self._member(i) for i in range(size)]
        except BaseException:
            if self.links is not None:
                self.links.close()
            raise

    def _member(self, number: int) -> Member:
        return Member(
            f"m{number}",
            self._place(number),
            self.directory / f"m{number}.etcd",
            self.directory / f"m{number}.log",
        )

    def _place(self, number: int) -> Place:
        if isinstance(self.links, Namespaces):
            return self.links.place(number)
        client, peer = free_ports(2)
        advertised, dialed = peer, client
        if self.links is not None and self._between_members:
            advertised = self.links.listen(("127.0.0.1", 0), ("127.0.0.1", peer), number)
        if self.links is not None and self.to_clients:
            target = ("127.0.0.1", client)
            dialed = self.links.listen(("127.0.0.1", 0), target, number, dialer=CLIENTS)
        return Place("127.0.0.1", client, peer, advertised, dialed)

    def _require(self, *numbers: int) -> None:
        """Raises ValueError for what is no member's number."""
        for number in numbers:
            if number not in range(len(self.members)):
                last = len(self.members) - 1
                raise ValueError(f"number: there is no member {number}, only 0 to {last}")

    @property
    def numbers(self) -> list[int]:
        """Numbers of the members that belong to the cluster: all, but those that were removed."""
        return [i for i, member in enumerate(self.members) if not member.removed]

    # Addresses.

    @property
    def endpoints(self) -> list[str]:
        """``host:port`` of every member's client port, running or not."""
        return [self.members[i].endpoint for i in self.numbers]

    def channel(self, number: int) -> grpc.Channel:
        """Return a kept gRPC channel to one member alone, past a proxy for clients."""
        self._require(number)
        if number not in self._channels:
            endpoint = self.members[number].own_endpoint
            self._channels[number] = grpc.insecure_channel(endpoint, options=_OPTIONS)
        return self._channels[number]

    def command(self, number: int) -> list[str]:
        """Return the whole command line of a member."""
        member = self.members[number]
        host, peer_port = member.place.host, member.place.peer_port
        together = [self.members[i] for i in self.numbers]
        initial = member.joins or ",".join(f"{m.name}={m.peer_url}" for m in together)
        return [
            *member.place.inside,
            *self.program,
            f"--name={member.name}",
            f"--data-dir={member.data_dir}",
            f"--listen-client-urls=http://{member.own_endpoint}",
            f"--advertise-client-urls=http://{member.endpoint}",
            f"--listen-peer-urls=http://{host}:{peer_port}",
            f"--initial-advertise-peer-urls={member.peer_url}",
            f"--initial-cluster={initial}",
            f"--initial-cluster-state={'existing' if member.joins else 'new'}",
            *self.flags,
        ]

    # Processes.

    def start(self, *numbers: int, wait: bool = True, timeout_s: float = START_S) -> None:
        """Start members (all that do not run, if none are named) and wait until they serve."""
        self._require(*numbers)
        chosen = numbers or [i for i in self.numbers if not self.members[i].running]
        for number in chosen:
            pid = self.members[number].start(self.command(number))
            if self.links is not None:
                self.links.set_pid(number, pid)
        if wait:
            self.wait_ready(*chosen, timeout_s=timeout_s)

    def kill(self, *numbers: int) -> None:
        """SIGKILL members (all, if none are named), all of them before waiting for any."""
        self._require(*numbers)
        chosen = [self.members[i] for i in numbers] if numbers else self.members
        for member in chosen:
            with contextlib.suppress(RuntimeError):  # it has ended, perhaps just now
                member.signal(signal.SIGKILL)
        for member in chosen:
            if member.process is not None:
                member.wait_exit()

    def stop(self, number: int, timeout_s: float = STOP_S) -> int:
        """SIGTERM a member, wait for its end and return its exit code."""
        self._require(number)
        self.members[number].signal(signal.SIGTERM)
        return self.members[number].wait_exit(timeout_s)

    def pause(self, number: int) -> None:
        """SIGSTOP a member: it keeps its sockets and answers nothing."""
        self._require(number)
        self.members[number].signal(signal.SIGSTOP)

    def resume(self, number: int) -> None:
        """SIGCONT a member."""
        self._require(number)
        self.members[number].signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self, number: int) -> Iterator[None]:
        """Keep a member paused while the context is open."""
        self.pause(number)
        try:
            yield
        finally:
            self.resume(number)

    # Members that come and go.

    def add_member(self, *, learner: bool = False, timeout_s: float = membership.CHANGE_S) -> int:
        """Add a member, start it and wait until it serves; return its number.

            number = cluster.add_member(learner=True)   # gets the data, does not vote
            cluster.promote_member(number)
            cluster.remove_member(number)

        Another member is asked again and again for as long as etcd's checks refuse (it takes up to
        5 s after a change until all count as healthy). Raises NotInTime, MemberEnded; the member is
        removed again then.
        """
        number = len(self.members)
        self.members.append(self._member(number))
        self.members[number].removed = True
        try:
            membership.add(self, number, learner, timeout_s)
            self.start(number, timeout_s=timeout_s)
        except Exception:
            with contextlib.suppress(Exception):  # what ended the start is what is told
                self.remove_member(number)
            raise
        return number

    def promote_member(self, number: int, timeout_s: float = membership.CHANGE_S) -> None:
        """Let a learner vote as soon as it has caught up, and wait until it serves as a voter.

        Raises NotInTime, MemberEnded.
        """
        self._require(number)
        membership.promote(self, number, timeout_s)
        self.wait_ready(number, timeout_s=timeout_s)

    def remove_member(self, number: int, timeout_s: float = membership.CHANGE_S) -> None:
        """Take a member out of the cluster, running or not, and wait for its process's end.

        It keeps its number; `replace_member` brings it back. Raises NotInTime.
        """
        self._require(number)
        membership.remove(self, number, timeout_s)

    def replace_member(
        self, number: int, *, learner: bool = False, timeout_s: float = membership.CHANGE_S
    ) -> None:
        """As after a lost disk: kill a member, remove it, and add it with no data and a new id.

        Also brings back one that was removed. Returns when it serves.
        Raises NotInTime, MemberEnded.
        """
        self._require(number)
        self.members[number].kill()
        if not self.members[number].removed:
            membership.remove(self, number, timeout_s)
        membership.wipe(self, number)
        membership.add(self, number, learner, timeout_s)
        self.start(number, timeout_s=timeout_s)

    # Links.

    def partition(self, *groups: Iterable[int]) -> None:
        """Cut all links between groups; members in no group form one more, together."""
        sides = [set(group) for group in groups]
        self._require(*set().union(*sides))
        sides.append(set(range(len(self.members))) - set().union(*sides))
        pairs = [(a, b) for one, other in permutations(sides, 2) for a in one for b in other]
        self._links.change(pairs, _cut)

    def cut(self, from_: int, to: int) -> None:
        """Cut one direction between two members."""
        self._require(from_, to)
        self._links.change([(from_, to)], _cut)

    def slow(self, number: int, delay_s: float, jitter_s: float = 0.0) -> None:
        """Delay everything from and to a member."""

        def delay(link: Link) -> None:
            link.delay_s, link.jitter_s = delay_s, jitter_s

        self._require(number)
        others = [i for i in range(len(self.members)) if i != number]
        self._links.change([(number, i) for i in others] + [(i, number) for i in others], delay)

    def heal(self) -> None:
        """Mend all links. (Paused and killed members stay so.)"""
        if self.links is not None:
            self.links.heal()

    @contextlib.contextmanager
    def partitioned(self, *groups: Iterable[int]) -> Iterator[None]:
        """Keep groups apart while the context is open; see `partition`."""
        self.partition(*groups)
        try:
            yield
        finally:
            self.heal()

    @property
    def _links(self) -> Network:
        if self.links is None:
            raise RuntimeError("this cluster was made with links=False")
        return self.links

    # Questions.

    def status(self, number: int, timeout_s: float = ASK_S) -> Any:
        """Return a member's StatusResponse. Raises grpc.RpcError."""
        call = self.channel(number).unary_unary(
            "/etcdserverpb.Maintenance/Status",
            request_serializer=rpc_pb2.StatusRequest.SerializeToString,
            response_deserializer=rpc_pb2.StatusResponse.FromString,
        )
        return call(rpc_pb2.StatusRequest(), timeout=timeout_s)

    def leader(self, timeout_s: float = START_S) -> int:
        """Return the number of the leader: of those that claim it, the one of the newest term."""
        return wait_until(self._leader_now, timeout_s, "a member leads")

    def _leader_now(self) -> int | None:
        claims = []
        for number, member in enumerate(self.members):
            if member.running:
                with contextlib.suppress(grpc.RpcError):
                    status = self.status(number)
                    if status.leader and status.leader == status.header.member_id:
                        claims.append((status.raftTerm, number))
        return max(claims)[1] if claims else None

    def followers(self) -> list[int]:
        """Return the numbers of the members that do not lead."""
        leader = self.leader()
        return [i for i in range(len(self.members)) if i != leader]

    def wait_ready(self, *numbers: int, timeout_s: float = START_S) -> None:
        """Wait until members (all that run) answer a linearizable read; learners, any read.

        Raises:
            MemberEnded: one of them has ended. NotInTime.
        """
        self._require(*numbers)
        chosen = numbers or [i for i in self.numbers if self.members[i].running]
        for number in chosen:
            what = f"{self.members[number].name} serves"
            wait_until(partial(self._serves, number), timeout_s, what)

    def _serves(self, number: int) -> bool:
        member = self.members[number]
        if not member.running:
            code = member.process.returncode if member.process is not None else None
            raise MemberEnded(f"{member.name} ended with {code}:\n{member.log_tail()}")
        call = self.channel(number).unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=rpc_pb2.RangeRequest.SerializeToString,
            response_deserializer=rpc_pb2.RangeResponse.FromString,
        )
        request = rpc_pb2.RangeRequest(key=b"health", serializable=member.learner)
        try:
            call(request, timeout=ASK_S)
        except grpc.RpcError:
            return False
        return True

    # The end.

    def close(self) -> None:
        """Kill what runs and close everything."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        self.kill()
        if self.links is not None:
            self.links.close()
            self.links = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):  # Ctrl-C is nobody's fault
            for member in self.members:
                print(f"--- {member.name} ({member.log_path})\n{member.log_tail()}")
        self.close()


def _cut(link: Link) -> None:
    link.cut = True
