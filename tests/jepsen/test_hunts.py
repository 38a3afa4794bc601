"""Hunts find known bugs where they are, and none of them in our server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from jepsen.hunts.base import Ground, Hunt, Outcome, Result, Server, Tries, hunt
from jepsen.hunts.book import Book
from jepsen.hunts.cli import HUNTS, main, read, remember, table
from kvstore.pb import rpc_pb2
from tests.clients.install import ETCD_34

CHEAP = [made for made in HUNTS.values() if made.cheap]
no_etcd_34 = pytest.mark.skipif(
    not ETCD_34.exists(), reason="there is no etcd 3.4 from Debian (make tools installs it)"
)


@pytest.mark.parametrize("hunted", CHEAP, ids=lambda hunted: hunted.name)
def test_our_server_has_none_of_etcds_bugs(hunted: Hunt, tmp_path: Path) -> None:
    result = hunt(hunted, Server(), tmp_path)
    if result.outcome is Outcome.NOT_POSSIBLE:
        pytest.skip(result.text)
    assert result.outcome is Outcome.NOT_SEEN, result.text
    assert result.tries > 0


@no_etcd_34
@pytest.mark.parametrize("name", ["18089", "15220"])
def test_bugs_of_etcd_3_4_are_found_and_told_in_words(name: str, tmp_path: Path) -> None:
    server = Server.of(str(ETCD_34))
    assert server.numbers[:2] == (3, 4)
    result = hunt(HUNTS[name], server, tmp_path)
    assert result.outcome is Outcome.FOUND
    assert {"18089": "lost event", "15220": "event after progress"}[name] in result.text


def test_results_are_kept_beside_those_of_other_servers(tmp_path: Path) -> None:
    path = tmp_path / "hunts.json"
    remember(path, [Result("18089", "etcd 3.4.23", Outcome.FOUND, "lost | event", 1, 0.5)])
    remember(path, [Result("18089", "kvstore 1", Outcome.NOT_SEEN, "", 3, 1.0)])
    remember(path, [Result("18089", "etcd 3.4.23", Outcome.FOUND, "lost | event", 2, 0.5)])
    kept = {(result.server, result.tries) for result in read(path)}
    assert kept == {("etcd 3.4.23", 2), ("kvstore 1", 3)}
    why = "there is no strace"
    for server in ("etcd 3.4.23", "kvstore 1"):
        remember(path, [Result("15247", server, Outcome.NOT_POSSIBLE, why, 0, 0.0)])
    text = table(read(path))
    assert "Found: 1 in etcd 3.4.23, 0 in kvstore 1." in text
    assert "| **found**, 2 tries, 0.5 s | not seen, 3 tries, 1.0 s |" in text
    assert "lost \\| event" in text
    assert "- 15247, etcd 3.4.23, kvstore 1: there is no strace" in text


def test_what_is_no_etcd_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "etcd"
    script.write_text("#!/bin/sh\n")
    for binary, reason in (
        ("/bin/true", "does not print an etcd version"),
        (str(script), "is a script"),
        (str(tmp_path / "missing"), "No such file"),
    ):
        assert main(["--binary", binary]) == 2
        assert reason in capsys.readouterr().err
    assert main(["--only", "dragons"]) == 2
    assert "'dragons' is none of 18089" in capsys.readouterr().err


def test_a_hunt_without_a_try_is_not_called_not_seen(tmp_path: Path) -> None:
    def nothing(ground: Ground) -> Tries:
        yield from ()

    result = hunt(Hunt("0", "nothing", nothing), Server(), tmp_path)
    assert (result.outcome, result.tries) == (Outcome.NOT_TRIED, 0)


def test_a_watch_that_is_canceled_is_seen_unless_a_compaction_overtook_it() -> None:
    """18089, 17529: a cancel for another reason is no word of a compaction."""
    told = rpc_pb2.WatchResponse(canceled=True, compact_revision=7)
    other = rpc_pb2.WatchResponse(canceled=True, cancel_reason="no room")
    channel = grpc.insecure_channel("127.0.0.1:1")
    call: Any = channel  # whose watches they are; it is asked nothing
    for overtaken, response, seen in (
        (True, told, ""),
        (True, other, "no room"),
        (False, told, "compact revision 7"),
        (False, other, "no room"),
    ):
        book = Book(overtaken=overtaken)
        book.watches(call, 0, b"a", 1)
        book.showed(call, response)
        assert seen in book.judge()
        assert bool(book.judge()) == bool(seen)
    channel.close()
