"""ReadIndex (thesis 6.4): reads at a leader, and reads that a follower forwards to it.

A leader gathers reads, and at the next Ready sends one heartbeat round for all of them: a round
serves only reads that arrived before it left, so its answers prove the leader was still leader
after each read began. Rounds are numbered; every heartbeat carries the number of the last one,
and an answer to it confirms all rounds up to it, so a lost heartbeat is made good by the next.

A follower's reads travel under numbers of its own, whose upper half is drawn at start: an answer
that was delayed beyond a restart, or comes twice, finds nobody waiting.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from raft.types import Message, MessageKind, Role

if TYPE_CHECKING:
    from raft.raft import Raft

MAX_PENDING_READS = 65536
"""Most reads that wait at a leader for their round to end, or at a follower to be forwarded;
further ones are refused."""
MAX_FORWARDED_BATCHES = 1024
"""Most forwarded batches that wait for an answer; the oldest is forgotten for a further one (its
request or answer was probably lost)."""

Request = tuple[int, int]
"""(member that asks, its context)."""


class ReadOnly:
    """A leader's reads. Rounds count from 1 in each term; 0 means none."""

    __slots__ = ("_count", "_rounds", "acks", "last_round", "pending")

    def __init__(self) -> None:
        self.pending: list[Request] = []
        self.last_round = 0
        self.acks: dict[int, int] = {}
        """The last round each member answered."""
        self._rounds: deque[tuple[int, int, list[Request]]] = deque()
        self._count = 0

    def reset(self) -> None:
        """Drop everything: leadership ended or began."""
        self.pending = []
        self.last_round = self._count = 0
        self.acks.clear()
        self._rounds.clear()

    def add(self, member: int, context: int) -> bool:
        """Note a read for the next round; False if too many wait."""
        if self._count >= MAX_PENDING_READS:
            return False
        self._count += 1
        self.pending.append((member, context))
        return True

    def start_round(self, own_id: int, commit_index: int) -> int:
        """All pending reads become a round at `commit_index`; returns its number."""
        assert self.pending
        self.last_round += 1
        self._rounds.append((self.last_round, commit_index, self.pending))
        self.pending = []
        self.acks[own_id] = self.last_round
        return self.last_round

    def acknowledge(self, member: int, number: int) -> bool:
        """A member answered a heartbeat of round `number`; whether that could confirm one."""
        if not self._rounds or not self.acks.get(member, 0) < number <= self.last_round:
            return False
        self.acks[member] = number
        return True

    def confirm(self, number: int) -> list[tuple[int, list[Request]]]:
        """Take the rounds up to `number`, as (index, requests)."""
        confirmed = []
        while self._rounds and self._rounds[0][0] <= number:
            _, index, requests = self._rounds.popleft()
            self._count -= len(requests)
            confirmed.append((index, requests))
        return confirmed


class ForwardedReads:
    """A follower's reads, gathered until the next Ready and then under way to the leader."""

    __slots__ = ("_next", "_sent", "waiting")

    def __init__(self, nonce: int) -> None:
        """`nonce`: 31 random bits."""
        self.waiting: list[int] = []
        self._sent: dict[int, list[int]] = {}
        self._next = nonce << 32

    def reset(self) -> None:
        """Drop everything: the leader changed."""
        self.waiting = []
        self._sent.clear()

    def add(self, context: int) -> bool:
        """Note a read; False if too many wait."""
        if len(self.waiting) >= MAX_PENDING_READS:
            return False
        self.waiting.append(context)
        return True

    def send(self) -> int:
        """All waiting reads go under one number, which is returned."""
        assert self.waiting
        self._next += 1
        if len(self._sent) >= MAX_FORWARDED_BATCHES:
            del self._sent[next(iter(self._sent))]
        self._sent[self._next] = self.waiting
        self.waiting = []
        return self._next

    def answered(self, number: int) -> list[int]:
        """Take the contexts sent under `number`; none if nobody waits for it."""
        return self._sent.pop(number, [])


def confirm_reads(r: Raft) -> None:
    """Answer the reads of every round that a quorum has confirmed."""
    number = r.tracker.quorum_value(r.read_only.acks)
    for index, requests in r.read_only.confirm(number):
        for member, context in requests:
            if member == r.id:
                r.read_states.append((context, index))
            else:
                r.messages.append(
                    Message(
                        MessageKind.READ_INDEX_RESPONSE,
                        member,
                        r.id,
                        r.term,
                        index=index,
                        context=context,
                    )
                )


def forward_reads(r: Raft) -> None:
    """A follower asks the leader for all reads that wait here."""
    context = r.forwarded_reads.send()
    r.messages.append(Message(MessageKind.READ_INDEX, r.leader, r.id, context=context))


def handle_read_index(r: Raft, m: Message) -> None:
    """A member of the configuration forwards reads; it finds out by waiting if they are refused."""
    if r.role is Role.LEADER and m.from_ in r.tracker.progress:
        r.read_only.add(m.from_, m.context)


def handle_read_index_response(r: Raft, m: Message) -> None:
    """The leader of this term has confirmed a batch of forwarded reads."""
    if m.from_ == r.leader:
        for context in r.forwarded_reads.answered(m.context):
            r.read_states.append((context, m.index))
