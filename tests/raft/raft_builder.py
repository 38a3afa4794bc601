"""One real `Raft` in a chosen state, and what it says: for tests that play the other members."""

from random import Random

from raft import (
    NORMAL,
    Config,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageKind,
    Raft,
    Ready,
    Role,
    SnapshotMeta,
)

ELECTION_TICK = 10


def entries_of(*terms: int) -> list[Entry]:
    """Entries with these terms and distinct data."""
    return [(term, NORMAL, b"%d.%d" % (at, term)) for at, term in enumerate(terms, 1)]


def make(
    member: int = 1,
    voters: tuple[int, ...] = (1, 2, 3),
    *,
    log: tuple[int, ...] = (),
    term: int = 0,
    vote: int = 0,
    commit: int = 0,
    conf: ConfState | None = None,
    first: SnapshotMeta | None = None,
    applied: int | None = None,
    seed: int = 1,
    **settings: object,
) -> Raft:
    """A member restarted with entries of the terms `log`, by default from index 1 on, and without
    the extensions of the thesis (PreVote, CheckQuorum)."""
    conf = conf or ConfState(voters)
    options = {
        "election_tick": ELECTION_TICK,
        "heartbeat_tick": 1,
        "pre_vote": False,
        "check_quorum": False,
        **settings,
    }
    snapshot = first or SnapshotMeta(0, 0, conf)
    return Raft(
        Config(id=member, **options),  # type: ignore[arg-type]
        hard_state=HardState(max(term, *log, snapshot.term, 0), vote, max(commit, snapshot.index)),
        snapshot=snapshot,
        entries=entries_of(*log),
        applied=snapshot.index if applied is None else applied,
        random=Random(seed),
    )


def carry_out(raft: Raft, ready: Ready) -> list[Message]:
    """Everything a Ready asks for, at once; returns the messages in the order they leave."""
    if ready.token:
        raft.persisted(ready.token)
    if ready.committed:
        raft.applied_to(ready.committed_first + len(ready.committed) - 1)
    return ready.messages + ready.messages_after


def settle(raft: Raft) -> list[Message]:
    """Carry out Readys until there is none left; returns all messages."""
    messages: list[Message] = []
    while raft.has_ready():
        messages += carry_out(raft, raft.ready())
    return messages


def of_kind(messages: list[Message], kind: MessageKind) -> list[Message]:
    return [message for message in messages if message.kind is kind]


def answer(request: Message, kind: MessageKind, **fields: object) -> Message:
    """An answer to `request` from its receiver, in the same term unless told otherwise."""
    values = {"term": request.term, **fields}
    return Message(kind, request.from_, request.to, **values)  # type: ignore[arg-type]


def elected(raft: Raft) -> Raft:
    """Make `raft` leader, with the votes of everyone; the first APPENDs are taken away."""
    raft.campaign()
    messages = settle(raft)
    for asked, given in (
        (MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE),
        (MessageKind.VOTE, MessageKind.VOTE_RESPONSE),
    ):
        for request in of_kind(messages, asked):
            raft.step(answer(request, given))
        messages += settle(raft)
    assert raft.role is Role.LEADER
    return raft


def ack(raft: Raft, member: int, index: int | None = None) -> list[Message]:
    """`member` acknowledges the leader's log up to `index` (all of it by default)."""
    raft.step(
        Message(
            MessageKind.APPEND_RESPONSE,
            raft.id,
            member,
            raft.term,
            index=raft.last_index if index is None else index,
        )
    )
    return settle(raft)


def append(
    raft: Raft,
    prev: int,
    prev_term: int,
    *terms: int,
    leader: int = 2,
    term: int | None = None,
    commit: int = 0,
) -> Message:
    """An APPEND from `leader` with entries of `terms` after (prev, prev_term)."""
    entries = [(t, NORMAL, b"%d.%d" % (prev + at, t)) for at, t in enumerate(terms, 1)]
    sent = max(raft.term, *terms, 0) if term is None else term
    return Message(MessageKind.APPEND, raft.id, leader, sent, prev_term, prev, entries, commit)


def terms_of(raft: Raft) -> list[int | None]:
    """The terms in the log, from first_index on."""
    return [raft.log.term_at(i) for i in range(raft.first_index, raft.last_index + 1)]
