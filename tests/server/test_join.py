"""How a member without data finds its cluster: whom it believes, and what it refuses."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kvstore.membership.ids import compute_member_id
from kvstore.server import datadir
from kvstore.server.config import Config, ConfigError
from kvstore.server.join import JoinError, fetch, find_cluster
from kvstore.server.membership import PEER_PROTOCOL_HEADER

OURS = {PEER_PROTOCOL_HEADER: "1"}
JOINER = "http://127.0.0.1:1"
HERE = "<here>"


@contextmanager
def peer(
    members: Any, headers: dict[str, str] | None = None, version: str = "3.6.0"
) -> Iterator[str]:
    """A peer that answers /members and /version; yields its URL. `HERE` in members means it."""
    told = {"X-Etcd-Cluster-ID": "c1", **(OURS if headers is None else headers)}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = members if self.path == "/members" else {"etcdcluster": version}
            body = json.dumps(found).replace(HERE, url).encode()
            self.send_response(200)
            for name, value in told.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def member(member_id: int, url: str, **fields: Any) -> dict[str, Any]:
    return {"id": member_id, "peerURLs": [url], **fields}


def joining(url: str, **fields: Any) -> Config:
    config = Config(
        name="new",
        initial_cluster=(("new", (JOINER,)), ("old", (url,))),
        initial_cluster_state="existing",
        initial_advertise_peer_urls=(JOINER,),
    )
    return replace(config, **fields)


GOOD = [member(5, HERE, name="old", clientURLs=["http://c"]), member(2**64 - 1, JOINER)]


def test_joiner_finds_its_id_by_its_urls_and_starts_without_a_log(tmp_path: Path) -> None:
    with peer(GOOD) as url:
        state = datadir.open_state(joining(url, data_dir=str(tmp_path)))
    assert state.member_id == 2**64 - 1
    assert state.cluster.cluster_id == 0xC1
    assert state.cluster.members[5].name == "old"
    assert (state.applied.index, state.recovered.hard_state.term) == (0, 0)
    assert state.applied.conf_state.voters == ()
    state.wal.close()
    state.backend.close()
    again = datadir.open_state(joining("http://127.0.0.1:9", data_dir=str(tmp_path)))
    assert again.cluster.members.keys() == {5, 2**64 - 1}, "it asks nobody the second time"
    again.wal.close()
    again.backend.close()


def test_name_and_address_of_one_host_are_the_same() -> None:
    with peer(GOOD) as url:
        port = url.rpartition(":")[2]
        assert find_cluster(joining(f"http://localhost:{port}"))[0] == 2**64 - 1


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (GOOD[:1], "member count is unequal"),
        ([*GOOD, member(9, "http://127.0.0.1:3")], "member count is unequal"),
        (
            [GOOD[0], member(9, "http://127.0.0.1:3")],
            r"PeerURLs: no match found for existing member \(9, \[http://127.0.0.1:3\]\)",
        ),
        ([GOOD[0], GOOD[0] | {"id": 9}], "no match found"),
        (
            [GOOD[0], GOOD[1] | {"name": "new", "clientURLs": ["http://c"]}],
            "ffffffffffffffff has already been bootstrapped",
        ),
        (
            [GOOD[0] | {"isLearner": True}, GOOD[1] | {"isLearner": True}],
            "too many learner members in cluster",
        ),
    ],
)
def test_cluster_that_is_not_the_one_of_the_flags_is_refused(members: Any, text: str) -> None:
    with peer(members) as url, pytest.raises(JoinError, match=text):
        find_cluster(joining(url))


def test_cluster_of_etcd_is_refused() -> None:
    with peer(GOOD, headers={}) as url, pytest.raises(JoinError, match="another peer protocol"):
        find_cluster(joining(url))


def test_newer_cluster_is_refused_and_an_undecided_one_is_not() -> None:
    newer = pytest.raises(JoinError, match="incompatible with current running cluster")
    with peer(GOOD, version="3.99.0") as url, newer:
        find_cluster(joining(url))
    with peer(GOOD, version="not_decided") as url:
        assert find_cluster(joining(url))[0] == 2**64 - 1


def test_nobody_who_answers_is_said(tmp_path: Path) -> None:
    config = joining("http://127.0.0.1:1", data_dir=str(tmp_path))
    config = replace(config, initial_cluster=(("new", ("http://127.0.0.1:2",)), ("old", (JOINER,))))
    with pytest.raises(JoinError, match="cannot fetch cluster info from peer urls"):
        datadir.open_state(config)
    assert not (tmp_path / "member" / "wal").exists()


def test_flags_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="couldn't find local name"):
        find_cluster(joining("http://127.0.0.1:3", name="other"))
    with pytest.raises(ConfigError, match="duplicate url"):
        find_cluster(joining(JOINER))


def test_member_that_lost_its_disk_is_not_bootstrapped_again(tmp_path: Path) -> None:
    """It has voted, and does not know for whom."""
    member_id = compute_member_id([JOINER], "etcd-cluster")
    started = [member(member_id, JOINER, name="new", clientURLs=["http://c"])]
    with peer(started) as url:
        config = joining(url, data_dir=str(tmp_path), initial_cluster_state="new")
        with pytest.raises(JoinError, match=f"member {member_id:x} has already been bootstrapped"):
            datadir.open_state(config)
    with peer([member(member_id, JOINER)]) as url:
        config = joining(url, data_dir=str(tmp_path), initial_cluster_state="new")
        state = datadir.open_state(config)
        assert state.member_id == member_id
        state.wal.close()
        state.backend.close()


@pytest.mark.parametrize("body", ["[]", "{}", "null", '[{"id": "x", "peerURLs": []}]', '"text"'])
def test_answer_without_sense_is_no_answer(body: str) -> None:
    with peer(json.loads(body)) as url:
        assert fetch([url], 5.0) is None


def test_the_first_peer_that_answers_is_believed() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with peer(GOOD) as url:
            remote = fetch([dead, "https://127.0.0.1:1", url], 5.0)
    assert remote is not None
    assert remote.url == url
