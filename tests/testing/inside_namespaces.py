"""What a cluster can do in a network of the kernel's; `test_namespaces` runs this inside of one."""

from __future__ import annotations

import http.client
import json
import select
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest

from kvstore.pb import rpc_pb2
from kvstore.testing import CLIENTS, Cluster, Link, wait_until
from kvstore.testing.namespaces import NamespaceError, Namespaces

DEADLINE_S = 40.0
UNANSWERED_S = 0.5
"""How long something cut is watched; nothing may come in that time, so a longer wait tests more."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(3, tmp_path_factory.mktemp("cluster"), network="namespaces") as made:
        made.start()
        yield made


def put(cluster: Cluster, number: int, timeout_s: float = 2.0) -> bool:
    call = cluster.channel(number).unary_unary(
        "/etcdserverpb.KV/Put",
        request_serializer=rpc_pb2.PutRequest.SerializeToString,
        response_deserializer=rpc_pb2.PutResponse.FromString,
    )
    try:
        call(rpc_pb2.PutRequest(key=b"k", value=b"v"), timeout=timeout_s)
    except grpc.RpcError:
        return False
    return True


def held(cluster: Cluster) -> Mapping[tuple[int, int], int]:
    assert cluster.links is not None
    return cluster.links.held()


def grown(before: Mapping[tuple[int, int], int], cluster: Cluster) -> set[tuple[int, int]]:
    """Links that have dropped packets since then."""
    return {pair for pair, count in held(cluster).items() if count > before.get(pair, 0)}


def cut(link: Link) -> None:
    link.cut = True


def test_what_refuses_leaves_no_network_so_the_next_cluster_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first test here, since the cluster of the others would be in its way."""
    used, programs = tmp_path / "used", tmp_path / "programs"
    (used / "m0.etcd").mkdir(parents=True)
    programs.mkdir()
    for name in ("ip", "nft"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for _ in range(2):
        with pytest.raises(ValueError, match="earlier cluster"):
            Cluster(1, used, network="namespaces")
        with monkeypatch.context() as patch:
            patch.setenv("PATH", str(programs))
            with pytest.raises(FileNotFoundError, match="nsenter"):
                Cluster(1, tmp_path / "half", network="namespaces")
    with Cluster(1, tmp_path / "next", network="namespaces") as made:
        made.start()
        assert put(made, 0, DEADLINE_S)


def test_a_step_of_the_end_that_fails_keeps_none_of_the_others_from_being_taken() -> None:
    """Before the cluster of the others, too."""
    network = Namespaces()
    for member in range(2):
        network.place(member)
    subprocess.run(["nft", "delete", "table", "bridge", "faults"], check=True)
    subprocess.run(["ip", "link", "delete", "clients"], check=True)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(NamespaceError, match="nft"):
        network.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors - 2
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


def test_members_have_addresses_of_their_own(cluster: Cluster) -> None:
    assert cluster.endpoints == ["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"]


def test_a_minority_refuses_and_the_majority_goes_on_until_they_meet_again(
    cluster: Cluster,
) -> None:
    """Packets of connections that exist are stopped in both directions, and TCP recovers."""
    old, others = cluster.leader(), cluster.followers()
    before = held(cluster)
    with cluster.partitioned([old]):
        wait_until(lambda: put(cluster, others[0]), DEADLINE_S, "the majority goes on")
        assert not put(cluster, old, UNANSWERED_S)
        assert cluster.leader() in others
        assert grown(before, cluster) >= {(old, others[0]), (others[0], old)}
    cluster.wait_ready(timeout_s=DEADLINE_S)
    after = held(cluster)
    assert put(cluster, old, DEADLINE_S)
    assert not grown(after, cluster)


def test_one_direction_alone_can_be_cut(cluster: Cluster) -> None:
    leader, follower = cluster.leader(), cluster.followers()[0]
    before = held(cluster)
    cluster.cut(leader, follower)
    assert put(cluster, leader, DEADLINE_S)
    wait_until(lambda: grown(before, cluster), DEADLINE_S, "packets are dropped")
    assert grown(before, cluster) == {(leader, follower)}
    cluster.heal()
    cluster.wait_ready(timeout_s=DEADLINE_S)


@pytest.mark.parametrize("pair", [(CLIENTS, 0), (0, CLIENTS)])
def test_a_connection_that_is_cut_in_one_direction_goes_on_after_the_healing(
    cluster: Cluster, pair: tuple[int, int]
) -> None:
    """Nothing passes on the connection that is there; TCP brings it in the end."""
    assert cluster.links is not None
    host, _, port = cluster.endpoints[0].partition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        ask_version(connection)
        assert version(connection)
        before = held(cluster)
        cluster.links.change([pair], cut)
        ask_version(connection)
        assert not select.select([connection], [], [], UNANSWERED_S)[0]
        assert grown(before, cluster) == {pair}
        cluster.heal()
        assert version(connection)


def ask_version(connection: socket.socket) -> None:
    connection.sendall(b"GET /version HTTP/1.1\r\nHost: member\r\n\r\n")


def version(connection: socket.socket) -> str:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return str(json.loads(answer.read())["etcdserver"])


def test_a_cluster_goes_on_while_packets_are_lost(cluster: Cluster) -> None:
    def lossy(link: Link) -> None:
        link.loss = 0.2

    assert cluster.links is not None
    pairs = {(a, b) for a in cluster.numbers for b in cluster.numbers if a != b}
    before = held(cluster)
    cluster.links.change(pairs, lossy)
    wait_until(lambda: put(cluster, 0) and grown(before, cluster), DEADLINE_S, "packets are lost")
    assert grown(before, cluster) <= pairs
    cluster.heal()


def test_what_exceeds_the_bandwidth_is_dropped(cluster: Cluster) -> None:
    def narrow(link: Link) -> None:
        link.bytes_per_s = 100_000.0

    assert cluster.links is not None
    before = held(cluster)
    cluster.links.change([(CLIENTS, 0)], narrow)
    call = cluster.channel(0).unary_unary("/etcdserverpb.KV/Put")
    request = rpc_pb2.PutRequest(key=b"large", value=bytes(1_000_000)).SerializeToString()
    with pytest.raises(grpc.RpcError):
        call(request, timeout=UNANSWERED_S)
    assert grown(before, cluster) == {(CLIENTS, 0)}
    cluster.heal()
    cluster.wait_ready(timeout_s=DEADLINE_S)


def test_all_connections_of_a_member_break_at_once(cluster: Cluster) -> None:
    assert cluster.links is not None
    victim = cluster.followers()[0]
    assert cluster.links.reset(victim) > 0
    cluster.wait_ready(timeout_s=DEADLINE_S)


def test_connections_die_without_a_word_and_new_ones_take_their_place(cluster: Cluster) -> None:
    assert cluster.links is not None
    victim = cluster.followers()[0]
    before = held(cluster)
    assert cluster.links.lose(victim) > 0
    others = {pair for i in cluster.numbers for pair in ((victim, i), (i, victim)) if i != victim}
    wait_until(lambda: grown(before, cluster), DEADLINE_S, "packets are dropped")
    assert grown(before, cluster) <= others
    cluster.heal()
    wait_until(lambda: put(cluster, victim), DEADLINE_S, "new connections carry it")


def test_a_delay_is_refused_and_the_link_stays_as_it_is(cluster: Cluster) -> None:
    assert cluster.links is not None
    cluster.cut(0, 1)
    with pytest.raises(NamespaceError, match="netem"):
        cluster.slow(0, 0.1)
    cluster.links.change((), cut)  # the rules are written anew
    listed = subprocess.run(
        ["nft", "list", "table", "bridge", "faults"], capture_output=True, text=True, check=True
    )
    assert 'iifname "m0" oifname "m1" counter name "m0_m1" drop' in listed.stdout
    cluster.heal()
    assert put(cluster, 0, DEADLINE_S)


def test_added_members_have_a_network_too_and_can_be_cut_off(cluster: Cluster) -> None:
    added = cluster.add_member()
    assert cluster.members[added].endpoint == "10.0.0.4:2379"
    with cluster.partitioned([added]):
        assert not put(cluster, added, UNANSWERED_S)
        wait_until(lambda: put(cluster, 0), DEADLINE_S, "the others go on")
    wait_until(lambda: put(cluster, added), DEADLINE_S, "it is back")
    cluster.replace_member(added)
    assert put(cluster, added, DEADLINE_S)


def test_a_second_network_in_one_namespace_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(NamespaceError, match="namespace of its own"):
        Namespaces()
