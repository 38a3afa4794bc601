"""The language of tests/raft/scripts/*.txt: commands to a `Cluster`, and what came of them.

A script is a list of cases: command lines, a line `----`, the output, an empty line. Lines that
begin with # are comments. Commands (M, N are member ids):

    cluster VOTERS [SPARES] [setting=value ...]   begin; must come first
    campaign M | tick M [TIMES] | propose M DATA... | read M | transfer M N | flush M
    change M [vN|lN|rN ...] [implicit|explicit]   voter, learner, remove; nothing: leave joint
    compact M [DISTANCE] | crash M [KEEP] | restart M | partition M... | heal
    ready M           take one Ready of M and print it
    persist M [N]     the next N batches of M are durable (1)
    deliver [M>N]     deliver what is under way now, all or of that link; prints each message
    drop [M>N]        lose it instead
    run               ready, persist and deliver, everything, until nothing happens; prints it
    quietly COMMAND   print nothing
    state             print each member and, of the leader, everyone's progress
"""

from raft_cluster import Cluster

from raft import (
    CONF_CHANGE,
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    Message,
    MessageKind,
    Ready,
    Transition,
    decode_conf_change,
)

_CHANGES = {
    "v": ConfChangeType.ADD_VOTER,
    "l": ConfChangeType.ADD_LEARNER,
    "r": ConfChangeType.REMOVE,
}
_TRANSITIONS = {"implicit": Transition.JOINT_IMPLICIT, "explicit": Transition.JOINT_EXPLICIT}


def describe_change(change: ConfChange) -> str:
    letters = {kind: letter for letter, kind in _CHANGES.items()}
    return " ".join(f"{letters[kind]}{member}" for kind, member in change.changes) or "leave"


def describe_conf(conf: ConfState) -> str:
    parts = [f"voters={list(conf.voters)}"]
    parts += [
        f"{name}={list(members)}"
        for name, members in zip(conf._fields[1:4], conf[1:4], strict=True)
        if members
    ]
    return " ".join(parts) + (" auto_leave" if conf.auto_leave else "")


def describe_entries(first: int, entries: list[Entry]) -> str:
    def one(entry: Entry) -> str:
        if entry[1] == CONF_CHANGE:
            return f"<{describe_change(decode_conf_change(entry[2]))}>"
        return entry[2].decode() or '""'

    return " ".join(f"{index}/{e[0]}:{one(e)}" for index, e in enumerate(entries, first))


def describe_message(m: Message) -> str:
    parts = [f"{m.from_}>{m.to} {m.kind.name}"]
    if m.term:
        parts.append(f"term={m.term}")
    if m.kind in (MessageKind.APPEND, MessageKind.VOTE, MessageKind.PRE_VOTE):
        parts.append(f"{'prev' if m.kind is MessageKind.APPEND else 'last'}={m.index}/{m.log_term}")
    elif m.index:
        parts.append(f"index={m.index}")
    if m.entries:
        parts.append(f"[{describe_entries(m.index + 1, list(m.entries))}]")
    if m.commit:
        parts.append(f"commit={m.commit}")
    if m.context and m.kind is not MessageKind.READ_INDEX:
        # Forwarded reads travel under a number whose upper half is drawn at random.
        parts.append(f"context={m.context & 0xFFFFFFFF}")
    if m.reject:
        parts.append("REJECT")
        if m.kind is MessageKind.APPEND_RESPONSE:
            parts.append(f"hint={m.reject_hint}/{m.log_term}")
    if m.snapshot is not None:
        conf = describe_conf(m.snapshot.conf_state)
        parts.append(f"snapshot={m.snapshot.index}/{m.snapshot.term} {conf}")
    return " ".join(parts)


def describe_ready(member: int, ready: Ready) -> list[str]:
    lines = []
    if ready.soft_state is not None:
        lines.append(f"{ready.soft_state.role.value}, leader {ready.soft_state.leader}")
    if ready.token:
        state = "" if ready.hard_state is None else f" {','.join(map(str, ready.hard_state))}"
        what = describe_entries(ready.first_index, ready.entries)
        snapshot = "" if ready.snapshot is None else f" snapshot {ready.snapshot.index}"
        lines.append(f"persist #{ready.token}{state}{snapshot} [{what}]")
    lines += [f"send {describe_message(m)}" for m in ready.messages]
    lines += [f"then {describe_message(m)}" for m in ready.messages_after]
    if ready.committed:
        lines.append(f"apply [{describe_entries(ready.committed_first, ready.committed)}]")
    lines += [f"read {context} at {index}" for context, index in ready.read_states]
    return [f"{member}: {line}" for line in lines]


class Script:
    """Runs commands and gathers what they print."""

    def __init__(self) -> None:
        self.cluster = Cluster(1)
        self.lines: list[str] = []

    def run_case(self, commands: list[str]) -> list[str]:
        """Run the commands of one case; returns the output, "ok" if there is none."""
        self.lines = []
        for command in commands:
            if not command.startswith("#"):
                self._run(command.split())
        return self.lines or ["ok"]

    def _run(self, words: list[str]) -> None:
        command, *args = words
        if command == "quietly":
            before, self.lines = self.lines, []
            self._run(args)
            self.lines = before
        elif command == "cluster":
            self._begin(args)
        elif command == "change":
            self._change(int(args[0]), args[1:])
        elif command == "propose":
            self._propose(int(args[0]), args[1:])
        elif command in ("deliver", "drop"):
            self._network(command, args)
        elif command == "partition":
            self.cluster.partition(set(map(int, args)))
        elif command == "heal":
            self.cluster.cut = set()
        elif command == "run":
            self.cluster.run(100)
        elif command == "state":
            self._state()
        else:
            self._member(command, *map(int, args))

    def _begin(self, args: list[str]) -> None:
        settings: dict[str, object] = {"election_tick": 10}
        numbers = []
        for arg in args:
            name, _, value = arg.partition("=")
            if value:
                settings[name] = value == "true" if value in ("true", "false") else int(value)
            else:
                numbers.append(int(name))
        self.cluster = Cluster(*numbers, **settings)  # type: ignore[arg-type]
        self.cluster.on_ready = lambda member, ready: self.lines.extend(
            describe_ready(member, ready)
        )
        self.cluster.on_deliver = lambda message, ok: self.lines.append(
            ("" if ok else "LOST ") + describe_message(message)
        )

    def _member(self, command: str, member: int, *numbers: int) -> None:
        cluster = self.cluster
        if command == "ready":
            if not cluster.take_ready(member):
                self.lines.append(f"{member}: nothing")
        elif command == "tick":
            for _ in range(*numbers or (1,)):
                cluster.tick(member)
        elif command == "persist":
            cluster.finish_write(member, *numbers)
        elif command == "compact":
            cluster.flush(member)
            cluster.compact(member, *numbers or (0,))
        elif command in ("campaign", "read", "transfer", "flush", "crash", "restart"):
            getattr(cluster, command)(member, *numbers)
        else:
            raise ValueError(f"unknown command {command}")

    def _propose(self, member: int, words: list[str]) -> None:
        self.cluster.members[member].up.propose([word.encode() for word in words])

    def _change(self, member: int, words: list[str]) -> None:
        transition = Transition.AUTO
        parts = []
        for word in words:
            if word in _TRANSITIONS:
                transition = _TRANSITIONS[word]
            else:
                parts.append((_CHANGES[word[0]], int(word[1:])))
        if not self.cluster.change_conf(member, ConfChange(tuple(parts), transition)):
            self.lines.append("refused")

    def _network(self, command: str, args: list[str]) -> None:
        cluster = self.cluster
        waiting, cluster.network = cluster.network, []
        for item in waiting:
            message = item[0]
            if args and f"{message.from_}>{message.to}" != args[0]:
                cluster.network.append(item)
                continue
            cluster.network.insert(0, item)
            if command == "deliver":
                cluster.deliver(0)
            else:
                self.lines.append(f"LOST {describe_message(message)}")
                cluster.drop(0)

    def _state(self) -> None:
        for member in self.cluster.members.values():
            raft = member.raft
            if raft is None:
                self.lines.append(f"{member.id}: down")
                continue
            self.lines.append(
                f"{member.id}: {raft.role.value} term={raft.term} vote={raft.vote}"
                f" leader={raft.leader} log={raft.first_index}..{raft.last_index}"
                f" commit={raft.commit_index} applied={raft.applied_index}"
                f" {describe_conf(raft.conf_state)}"
            )
        leader = self.cluster.leader()
        for peer in leader.tracker.peers if leader is not None else ():
            assert leader is not None
            pr = leader.tracker.progress[peer]
            self.lines.append(
                f"   {leader.id} sees {peer}: {pr.state.value} match={pr.match} next={pr.next}"
                f" inflight={list(pr.inflight)}"
            )


def run_script(text: str) -> str:
    """The script with the output that its commands give now."""
    script = Script()
    cases = []
    for case in text.strip().split("\n\n"):
        commands = case.partition("\n----")[0].splitlines()
        if all(line.startswith("#") for line in commands):
            cases.append("\n".join(commands))
        else:
            cases.append("\n".join([*commands, "----", *script.run_case(commands)]))
    return "\n\n".join(cases) + "\n"
