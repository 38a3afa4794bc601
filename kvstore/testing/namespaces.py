"""A network of the kernel's for one cluster: each member in a network namespace, with an address.

    clients 10.0.0.254 = the bridge ── m0 ═ veth pair ═ eth0 10.0.0.1 (member 0)
                                    ── m1 ═ veth pair ═ eth0 10.0.0.2 (member 1) ...

The bridge is in the namespace of this process, which must be one of its own (`unshare.enter`): the
machine's network is never touched. Faults are rules of nftables on the bridge, so they meet
packets, of connections that exist as of new ones: what is lost is lost below TCP, and after the
healing it takes TCP until its next try to get through, up to as long as the cut lasted. Each
directed link has a counter of the bytes that were dropped. ARP passes over a cut link, which so
behaves as if a router were between: packets vanish, nobody is told.

The trade-off: root, ``ip`` and ``nft`` are needed, and nothing here delays packets, for which the
kernel needs netem, which many have not.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from kvstore.testing.links import CLIENTS, Link
from kvstore.testing.network import Ability
from kvstore.testing.processes import NotInTime, Place, wait_until
from kvstore.testing.unshare import new_network

CLIENT_PORT: Final = 2379
PEER_PORT: Final = 2380
BURST_BYTES: Final = 128 * 1024
"""What a link with little bandwidth takes at once; two of the largest packets of a veth pair."""
RESET_S: Final = 2.0
"""A connection breaks by its next packet: so long is waited for one."""
CLIENT_RETRIES: Final = 6
"""A client's connection breaks after 25 s without an answer (RFC 1122: R2). By default it takes a
quarter of an hour with pauses of two minutes, longer than a run waits after the healing. Members
keep the default."""

_BRIDGE: Final = "clients"
_BRIDGE_HOST: Final = "10.0.0.254"
_TABLE: Final = "bridge faults"
_PROGRAMS: Final = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"}
_ESTABLISHED: Final = "01"

_CHAINS: Final = f"""
add table {_TABLE}
add chain {_TABLE} forward {{ type filter hook forward priority 0; }}
add chain {_TABLE} input {{ type filter hook input priority 0; }}
add chain {_TABLE} output {{ type filter hook output priority 0; }}
flush table {_TABLE}
"""
"""Between members, from members to the bridge's own address, and from it to members. Atomic with
the rules behind it; counters stay."""

_TRIALS: Final = {
    "network namespaces": ("unshare --net --pid --mount --fork true", ""),
    "bridges (CONFIG_BRIDGE)": ("unshare --net ip link add b0 type bridge", ""),
    "veth pairs (CONFIG_VETH)": ("unshare --net ip link add v0 type veth peer name v1", ""),
    "filters on bridges (CONFIG_NF_TABLES_BRIDGE, NFT_NUMGEN, NFT_LIMIT, NFT_REJECT)": (
        "unshare --net nft -f -",
        f"{_CHAINS}add counter {_TABLE} c\n"
        f"add rule {_TABLE} forward numgen random mod 10000 < 1 counter name c drop\n"
        f"add rule {_TABLE} forward limit rate over 1 bytes/second counter name c drop\n"
        "add table ip t\nadd chain ip t c { type filter hook input priority 0; }\n"
        "add rule ip t c tcp dport 1 reject with tcp reset\n",
    ),
}
"""What the kernel needs: command and input that show it, in a namespace of their own."""


class NamespaceError(RuntimeError):
    """A step failed; the text has the command and what it said."""


def missing() -> str:
    """Return why there can be no such network here, and how to get it; "" if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root (sudo)"
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"there is no {program} (apt install {package})"
    for what, (command, text) in _TRIALS.items():
        try:
            _run(*command.split(), text=text)
        except NamespaceError as error:
            return f"this kernel or container does not allow {what}: {error}"
    return ""


class _Connection(NamedTuple):
    """A TCP connection, seen from one end: a member; the other end may be `CLIENTS`."""

    member: int
    port: int
    other: int
    other_port: int

    @property
    def mirrored(self) -> _Connection:
        return _Connection(self.other, self.other_port, self.member, self.port)


class Namespaces:
    """The network of one cluster; a `Network`. All methods may be called from any thread."""

    def __init__(self) -> None:
        """Make the bridge. Raises NamespaceError, also where there is a network already."""
        if [name for _, name in socket.if_nameindex()] != ["lo"]:
            raise NamespaceError("not in a network namespace of its own; see unshare.enter")
        self._links: dict[tuple[int, int], Link] = {}
        self._lost: set[_Connection] = set()
        self._networks: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._lock = threading.Lock()
        Path("/proc/sys/net/ipv4/tcp_retries2").write_text(str(CLIENT_RETRIES))
        # An address of its own: else that of the bridge changes as members come.
        _ip("link set lo up", f"link add {_BRIDGE} address 02:00:00:00:00:fe type bridge")
        try:
            _ip(f"address add {_BRIDGE_HOST}/24 dev {_BRIDGE}", f"link set {_BRIDGE} up")
            self._filter()
        except BaseException:
            _ip(f"link delete {_BRIDGE}")
            raise

    def place(self, member: int) -> Place:
        """Make a member's namespace and link; return where it is and how to start it there."""
        self._networks[member] = new_network()
        inside = self._inside(member)
        try:
            _ip(
                f"link add m{member} type veth peer name eth0 netns {self._path(member)}",
                f"link set m{member} master {_BRIDGE} up",
            )
            _ip(
                "link set lo up",
                f"address add {_host(member)}/24 dev eth0",
                "link set eth0 up",
                inside=inside,
            )
        except BaseException:  # the link goes with the last of its namespace
            os.close(self._networks.pop(member))
            raise
        return Place(_host(member), CLIENT_PORT, PEER_PORT, PEER_PORT, CLIENT_PORT, inside)

    def set_pid(self, member: int, pid: int) -> None:
        """Tell which process a member is now; its connections are seen through it."""
        self._pids[member] = pid

    def close(self) -> None:
        """Take the bridge down and give the namespaces up; members in them keep theirs.

        A step that fails keeps none of the others from being taken; it is raised at the end.
        """
        there = {name for _, name in socket.if_nameindex()}
        with contextlib.ExitStack() as steps:
            steps.callback(_nft, f"delete table {_TABLE}")
            steps.callback(_ip, f"link delete {_BRIDGE}")
            for member, descriptor in self._networks.items():
                steps.callback(os.close, descriptor)
                if f"m{member}" in there:  # else `place` has failed
                    steps.callback(_ip, f"link delete m{member}")

    # Faults.

    def change(self, pairs: Iterable[tuple[int, int]], change: Callable[[Link], None]) -> None:
        """Change directed links, all at one moment.

        Raises NamespaceError, always for a delay; then no link has changed.
        """
        with self._lock:
            changed = {pair: replace(link) for pair, link in self._links.items()}
            for pair in pairs:
                change(changed.setdefault(pair, Link()))
            if any(link.delay_s or link.jitter_s for link in changed.values()):
                raise NamespaceError(self.lacks(Ability.DELAY))
            before, self._links = self._links, changed
            try:
                self._filter()
            except BaseException:
                self._links = before
                raise

    def heal(self) -> None:
        """Let every link lose nothing any more. Connections that are lost stay lost."""
        self.change(list(self._links), Link.heal)

    def held(self) -> Mapping[tuple[int, int], int]:
        """Bytes of packets that each directed link has dropped so far."""
        listed = json.loads(_run("nft", "--json", "list", "counters"))["nftables"]
        dropped = {c["counter"]["name"]: c["counter"]["bytes"] for c in listed if "counter" in c}
        known = {pair: dropped.get(_counter(pair), 0) for pair in self._pairs()}
        return {pair: count for pair, count in known.items() if count}

    def lacks(self, ability: Ability) -> str:
        """Nothing delays packets here."""
        return "namespaces cannot delay packets without netem; --network=proxies can"

    def lose(self, member: int) -> int:
        """Make all connections between a member and other members half-open; return how many.

        Every packet of them is lost for good, so each end believes in them for as long as it does
        without an answer. New connections work.
        """
        with self._lock:
            chosen = {c for c in self._connections_of(member) if c.other != CLIENTS}
            before, self._lost = self._lost, self._lost | chosen
            try:
                self._filter()
            except BaseException:
                self._lost = before
                raise
        return len(chosen)

    def reset(self, member: int, dialer: int | None = None) -> int:
        """Break connections of a member with RST, at both ends; return how many broke.

        It takes a packet for each: one that is idle for `RESET_S` stays. Args as `Links.reset`.
        """
        chosen = set(self._connections_of(member))
        if dialer is not None:
            listens = (CLIENT_PORT, PEER_PORT)
            chosen = {c for c in chosen if c.other == dialer and c.port in listens}
        inside = self._inside(member)
        _nft(_RESETS + "".join(map(_rejections, chosen)), inside=inside)

        def left() -> set[_Connection]:
            return chosen & set(self._connections_of(member))

        with contextlib.suppress(NotInTime):
            wait_until(lambda: not left(), RESET_S, "connections break")
        count = len(chosen) - len(left())
        _nft("delete table ip resets", inside=inside)
        return count

    # Rules.

    def _filter(self) -> None:
        """Put the rules for all links in the place of those that are there, in one transaction."""
        open_now = {c for member in self._pids for c in self._connections_of(member)}
        self._lost = {c for c in self._lost if c in open_now or c.mirrored in open_now}
        counters = [f"add counter {_TABLE} {_counter(pair)}" for pair in self._pairs()]
        lost = [c for connection in self._lost for c in (connection, connection.mirrored)]
        rules = [
            *(f"{chain} ether type != ip accept" for chain in ("forward", "input", "output")),
            *(rule for pair, link in self._links.items() for rule in _losses(pair, link)),
            *(f"forward {_packets_of(c)} {_drop((c.member, c.other))}" for c in lost),
        ]
        added = [f"add rule {_TABLE} {rule}" for rule in rules]
        _nft("\n".join([_CHAINS, *counters, *added]))

    def _pairs(self) -> set[tuple[int, int]]:
        lost = {pair for c in self._lost for pair in ((c.member, c.other), (c.other, c.member))}
        return set(self._links) | lost

    def _inside(self, member: int) -> tuple[str, ...]:
        return ("nsenter", f"--net={self._path(member)}")

    def _path(self, member: int) -> str:
        return f"/proc/{os.getpid()}/fd/{self._networks[member]}"

    def _connections_of(self, member: int) -> Iterator[_Connection]:
        """Established connections of a member's namespace, while its process is there."""
        hosts = {_host(number): number for number in (*self._networks, CLIENTS)}
        table = Path(f"/proc/{self._pids.get(member)}/net/tcp")
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            return
        for line in lines:
            _, local, remote, state, *_ = line.split()
            host, port = _address(remote)
            if state == _ESTABLISHED and hosts.get(host, member) != member:
                yield _Connection(member, _address(local)[1], hosts[host], port)


_RESETS: Final = """
add table ip resets
add chain ip resets input { type filter hook input priority 0; }
add chain ip resets output { type filter hook output priority 0; }
"""


def _rejections(c: _Connection) -> str:
    """Rules in a member's namespace: the sender of a connection's next packet is told RST."""
    packets = ((_packets_of(c), "output"), (_packets_of(c.mirrored), "input"))
    return "".join(
        f"add rule ip resets {chain} tcp flags & rst == 0 {match} reject with tcp reset\n"
        for match, chain in packets
    )


def _packets_of(c: _Connection) -> str:
    """Match the packets of a connection that its first end sends."""
    return (
        f"ip saddr {_host(c.member)} ip daddr {_host(c.other)}"
        f" tcp sport {c.port} tcp dport {c.other_port}"
    )


def _losses(pair: tuple[int, int], link: Link) -> Iterator[str]:
    """Rules for what a directed link does to packets."""
    from_, to = pair
    if from_ == CLIENTS:
        where = f"output oifname m{to}"
    elif to == CLIENTS:
        where = f"input iifname m{from_}"
    else:
        where = f"forward iifname m{from_} oifname m{to}"
    drop = _drop(pair)
    if link.cut:
        yield f"{where} {drop}"
    if link.loss:
        yield f"{where} numgen random mod 10000 < {round(link.loss * 10000)} {drop}"
    if link.bytes_per_s:
        most = f"rate over {link.bytes_per_s:.0f} bytes/second burst {BURST_BYTES} bytes"
        yield f"{where} limit {most} {drop}"


def _drop(pair: tuple[int, int]) -> str:
    return f"counter name {_counter(pair)} drop"


def _counter(pair: tuple[int, int]) -> str:
    return "_".join(_BRIDGE if end == CLIENTS else f"m{end}" for end in pair)


def _host(member: int) -> str:
    return _BRIDGE_HOST if member == CLIENTS else f"10.0.0.{member + 1}"


def _address(text: str) -> tuple[str, int]:
    """Host and port as in ``/proc/net/tcp``."""
    host, _, port = text.partition(":")
    return socket.inet_ntoa(int(host, 16).to_bytes(4, "little")), int(port, 16)


def _ip(*commands: str, inside: tuple[str, ...] = ()) -> None:
    _run(*inside, "ip", "-batch", "-", text="\n".join(commands))


def _nft(text: str, inside: tuple[str, ...] = ()) -> None:
    _run(*inside, "nft", "-f", "-", text=text)


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0] or str(done.returncode)
        raise NamespaceError(f"{' '.join(command)}: {said}")
    return done.stdout
