"""A log file is put aside when it is full; put-aside ones are packed and removed as configured."""

from __future__ import annotations

import gzip
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvstore.server.config import Config, ConfigError
from kvstore.server.log import setup_logging
from kvstore.server.log_rotation import MEGABYTE, LogRotation, RotatingFile, parse_rotation

LINE = "x" * (MEGABYTE // 4 - 1)
DAY_S = 86_400


@contextmanager
def logger(path: Path, rotation: LogRotation) -> Iterator[logging.Logger]:
    log = logging.Logger("rotation")
    handler = RotatingFile(str(path), rotation)
    log.addHandler(handler)
    yield log
    handler.close()


def backups(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in folder.iterdir() if path.name != "etcd.log")


def test_a_full_file_is_put_aside_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "etcd.log"
    with logger(path, LogRotation(max_size_mb=1)) as log:
        for number in range(9):
            log.info("%d%s", number, LINE[1:])
    first, second = backups(tmp_path)
    assert [file.stat().st_size for file in (first, second)] == [MEGABYTE, MEGABYTE]
    assert path.stat().st_size == MEGABYTE // 4
    for file in (first, second):
        assert re.fullmatch(r"etcd-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}\.log", file.name), (
            file.name
        )
    written = "".join(file.read_text() for file in (first, second, path))
    assert [line[0] for line in written.splitlines()] == list("012345678")


def test_a_restart_appends_and_puts_a_full_file_aside_at_once(tmp_path: Path) -> None:
    path = tmp_path / "etcd.log"
    path.write_bytes(b"before\n")
    with logger(path, LogRotation(max_size_mb=1)) as log:
        log.info("after")
    assert path.read_text() == "before\nafter\n"
    path.write_bytes(bytes(MEGABYTE))
    with logger(path, LogRotation(max_size_mb=1)):
        pass
    assert path.stat().st_size == 0
    assert len(backups(tmp_path)) == 1


def test_only_the_newest_backups_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "etcd.log"
    with logger(path, LogRotation(max_size_mb=1, max_backups=2)) as log:
        for number in range(21):
            log.info("%s%d", LINE[:-2], number % 10)
    assert len(backups(tmp_path)) == 2


def test_backups_beyond_their_age_are_removed_and_strangers_stay(tmp_path: Path) -> None:
    path = tmp_path / "etcd.log"
    old = tmp_path / "etcd-2006-01-02T15-04-05.000.log"
    fresh = tmp_path / "etcd-2007-01-02T15-04-05.000.log"
    stranger = tmp_path / "etcd-notes.log"
    for file in (old, fresh, stranger):
        file.touch()
    past = time.time() - 4 * DAY_S
    os.utime(old, (past, past))
    os.utime(stranger, (past, past))
    with logger(path, LogRotation(max_size_mb=1, max_age_days=3)) as log:
        for _ in range(5):
            log.info(LINE)
    assert not old.exists()
    assert fresh.exists()
    assert stranger.exists()


def test_backups_are_compressed_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "etcd.log"
    with logger(path, LogRotation(max_size_mb=1, compress=True)) as log:
        for _ in range(5):
            log.info(LINE)
    (packed,) = backups(tmp_path)
    assert packed.name.endswith(".log.gz")
    assert gzip.decompress(packed.read_bytes()) == (LINE + "\n").encode() * 4


def test_names_are_in_local_time_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC-12")
    time.tzset()
    try:
        path = tmp_path / "etcd.log"
        with logger(path, LogRotation(max_size_mb=1, local_time=True)) as log:
            for _ in range(5):
                log.info(LINE)
        (backup,) = backups(tmp_path)
        stamp = backup.name.removeprefix("etcd-").removesuffix(".log").partition(".")[0]
        shown = time.mktime(time.strptime(stamp, "%Y-%m-%dT%H-%M-%S"))
        assert abs(shown - backup.stat().st_mtime) < DAY_S / 4
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_flags_json_is_read_as_etcd_reads_it() -> None:
    default = (
        '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}'
    )
    assert parse_rotation(default) == LogRotation()
    assert parse_rotation("{}") == LogRotation(max_size_mb=100)
    assert parse_rotation('{"MaxSize": 7, "compress": true, "unknown": 1}') == LogRotation(
        max_size_mb=7, compress=True
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"maxsize": true}', '{"compress": 1}'])
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="log rotation config"):
        parse_rotation(text)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    config = Config(log_outputs=(str(tmp_path / "no" / "log"),), log_rotation=LogRotation())
    with pytest.raises(ConfigError, match="couldn't open sink"):
        setup_logging(config)
