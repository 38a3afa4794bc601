"""``kvstore snapshot``: output and refusals in the form of etcd's own tools."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from pathlib import Path

import pytest

from kvstore.cli.main import main
from kvstore.cli.snapshot import human_bytes
from kvstore.server.datadir import LOCK_FILE
from kvstore.snapshot.schema import AUTH_ENABLED, auth_key
from kvstore.storage.backend import AUTH
from tests.e2e.etcdctl import distro_binary
from tests.snapshot.stores import exported, furnish, lived_in

ERROR, BAD_ARGUMENTS = 1, 128


@pytest.fixture(scope="module")
def database() -> bytes:
    member = lived_in(8)
    furnish(member.backend)
    return exported(member.backend)


@pytest.fixture
def snapshot(tmp_path: Path, database: bytes) -> Path:
    path = tmp_path / "snapshot.db"
    path.write_bytes(database + hashlib.sha256(database).digest())
    return path


def etcdutl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [distro_binary("etcdutl"), "snapshot", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and error text of a command that must fail without other output."""
    code = main(["snapshot", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def test_the_status_is_printed_as_etcdutl_prints_it(
    snapshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Simple, table and JSON; etcdutl 3.5, which is at hand, has no version column yet and counts
    keys in another way."""
    assert main(["snapshot", "status", str(snapshot)]) == 0
    simple = capsys.readouterr().out.strip().split(", ")
    theirs = etcdutl("status", str(snapshot)).stdout.strip().split(", ")
    assert simple[:2] + simple[3:4] == theirs[:2] + theirs[3:]
    assert simple[4:] == ["3.6.0"]

    assert main(["snapshot", "status", str(snapshot), "-w", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    theirs_record = json.loads(etcdutl("status", str(snapshot), "-w", "json").stdout)
    assert list(record) == [*theirs_record, "version"]
    assert all(record[key] == theirs_record[key] for key in ("hash", "revision", "totalSize"))

    assert main(["snapshot", "status", str(snapshot), "--write-out=table"]) == 0
    lines = capsys.readouterr().out.splitlines()
    their_lines = etcdutl("status", str(snapshot), "-w", "table").stdout.splitlines()
    assert len(lines) == len(their_lines) == 5
    for ours, other in zip(lines, their_lines, strict=True):
        # Line by line up to the key count, and from there the layout: same widths, one column more.
        assert ours.startswith(other[: other.rindex(" | ", 0, 30)] if "|" in other else other[:-1])


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (9, "9 B"), (10, "10 B"), (999, "999 B"), (1000, "1.0 kB"), (1049, "1.0 kB"),
        (1050, "1.1 kB"), (9_949, "9.9 kB"), (24_576, "25 kB"), (999_999, "1000 kB"),
        (137_785_344, "138 MB"), (5_000_000_000, "5.0 GB"), (10**15, "1.0 PB"),
    ],
)  # fmt: skip
def test_sizes_are_told_as_etcd_tells_them(size: int, text: str) -> None:
    assert human_bytes(size) == text


def test_damage_is_told_with_the_file(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(snapshot.read_bytes())
    content[9000] ^= 1
    snapshot.write_bytes(content)
    target = snapshot.parent / "restored"
    for command in (["status", snapshot], ["restore", snapshot, "--data-dir", target]):
        code, text = refusal(capsys, *command)
        assert code == ERROR
        assert text.startswith(f"Error: {snapshot}: expected sha256 ")
    assert not target.exists()


def test_a_restore_that_fails_leaves_nothing(
    snapshot: Path, database: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage that only the load meets: the directory it made is gone, one it found is as it was."""
    snapshot.write_bytes(database.replace(b"k1\x10", b"k1\xff"))
    target = snapshot.parent / "restored"
    command = ["restore", snapshot, "--skip-hash-check", "--data-dir", target]
    code, text = refusal(capsys, *command)
    assert code == ERROR
    assert text.startswith(f"Error: {snapshot}: page ")
    assert "bucket 'key', key " in text
    assert not target.exists()
    target.mkdir()
    assert refusal(capsys, *command, "--wal-dir", target.parent / "wal") == (code, text)
    assert [path.name for path in target.iterdir()] == [LOCK_FILE]
    assert not (target.parent / "wal").exists()


def test_directories_that_are_in_use_are_refused(
    snapshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, wal = snapshot.parent / "restored", snapshot.parent / "wal"
    assert main(["snapshot", "restore", str(snapshot), f"--data-dir={target}"]) == 0
    assert "Restored" in capsys.readouterr().out
    code, text = refusal(capsys, "restore", snapshot, "--data-dir", target)
    assert (code, text) == (ERROR, f'Error: data-dir "{target}" not empty or could not be read\n')
    wal.mkdir()
    other = snapshot.parent / "other"
    code, text = refusal(capsys, "restore", snapshot, "--data-dir", other, "--wal-dir", wal)
    assert (code, text) == (ERROR, f'Error: wal-dir "{wal}" exists\n')
    assert not other.exists()


def test_a_log_may_lie_elsewhere(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, wal = snapshot.parent / "restored", snapshot.parent / "logs" / "wal"
    arguments = [str(snapshot), f"--data-dir={target}", f"--wal-dir={wal}"]
    assert main(["snapshot", "restore", *arguments]) == 0
    assert [path.name for path in (target / "member").iterdir()] == ["snap"]
    assert any(path.suffix == ".wal" for path in wal.iterdir())


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--bump-revision=5"], BAD_ARGUMENTS, "--mark-compacted required if --revision-bump > 0"),
        (["--mark-compacted"], BAD_ARGUMENTS, "--mark-compacted required if --revision-bump > 0"),
        (["--name=x"], ERROR, 'couldn\'t find local name "x" in the initial cluster'),
        (["--initial-cluster=default=ftp://x:1"], ERROR, "--initial-cluster: error setting up"),
        (["--initial-advertise-peer-urls=x"], BAD_ARGUMENTS, "--initial-advertise-peer-urls: URL"),
        (["--initial-advertise-peer-urls=http://localhost:1"], ERROR, "--initial-cluster has def"),
        (
            ["--bump-revision=9223372036854775807", "--mark-compacted"],
            ERROR,
            "is above the highest possible",
        ),
    ],
)
def test_flags_that_do_not_fit_are_named(
    snapshot: Path, flags: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = snapshot.parent / "restored"
    found = refusal(capsys, "restore", snapshot, "--data-dir", target, *flags)
    assert found[0] == code
    assert text in found[1]
    assert not target.exists()


@pytest.mark.parametrize(
    "flags", [["--bump-revision=-1"], ["--bump-revision=9223372036854775808"], ["--skip-hash=1"]]
)
def test_flags_that_cannot_be_read_are_usage_errors(snapshot: Path, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["snapshot", "restore", str(snapshot), *flags])
    assert ended.value.code == 2


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "restore"):
        code, text = refusal(capsys, command, tmp_path / "none")
        assert code == ERROR
        assert "No such file or directory" in text
        assert str(tmp_path / "none") in text


def test_a_server_that_cannot_be_reached_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        target = tmp_path / "saved"
        code, text = refusal(
            capsys, "save", target, "--endpoints", endpoint, "--dial-timeout", "0.3"
        )
    assert code == ERROR
    assert text == f"Error: {endpoint} does not answer: context deadline exceeded\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("endpoints", "code", "text"),
    [
        ("a:1,b:2", BAD_ARGUMENTS, "requested to one selected node, not multiple [a:1 b:2]"),
        ("https://a:1", ERROR, "https://a:1: https is not implemented yet in this client"),
    ],
)
def test_endpoints_that_cannot_be_used_are_refused(
    tmp_path: Path, endpoints: str, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = refusal(capsys, "save", tmp_path / "saved", "--endpoints", endpoints)
    assert found[0] == code
    assert text in found[1]


def test_users_that_are_not_asked_for_any_more_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = lived_in(1)
    bucket, key, value = AUTH_ENABLED
    member.backend.put(AUTH, auth_key(bucket, key), value)
    (tmp_path / "db").write_bytes(exported(member.backend))
    arguments = [str(tmp_path / "db"), "--skip-hash-check", f"--data-dir={tmp_path / 'to'}"]
    assert main(["snapshot", "restore", *arguments]) == 0
    assert "authentication enabled" in capsys.readouterr().err
