"""A log file that is put aside when it is full, as lumberjack does for etcd.

``etcd.log`` becomes ``etcd-2006-01-02T15-04-05.000.log`` and a new file begins; put-aside files are
compressed and removed by a thread of its own, because packing 100 MB takes seconds and the thread
that logs is the event loop. A file is also put aside at start if it is full by then.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

MEGABYTE: Final = 1024 * 1024
DEFAULT_MAX_SIZE_MB: Final = 100
_STAMP: Final = "%Y-%m-%dT%H-%M-%S"
_KEYS: Final = {
    "maxsize": int, "maxage": int, "maxbackups": int, "localtime": bool, "compress": bool
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogRotation:
    """``--log-rotation-config-json``.

    Attributes:
        max_size_mb: size, MiB, from which a file is put aside; >= 1.
        max_age_days: put-aside files older than this are removed; 0: age does not matter.
        max_backups: put-aside files that are kept; 0: all.
        local_time: name files by local time, else UTC.
        compress: pack put-aside files with gzip.
    """

    max_size_mb: int = DEFAULT_MAX_SIZE_MB
    max_age_days: int = 0
    max_backups: int = 0
    local_time: bool = False
    compress: bool = False


def parse_rotation(text: str) -> LogRotation:
    """Read the flag's JSON; keys that are not known are ignored, as in etcd.

    Raises:
        ValueError: it is not JSON or a value is bad; the text names it.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"improperly formatted log rotation config: {error}") from None
    if not isinstance(document, dict):
        raise ValueError("invalid log rotation config: it must be an object")
    found: dict[str, int] = {}
    for key, value in document.items():
        expected = _KEYS.get(key.lower())
        if expected is None:
            continue
        if type(value) is not expected:
            raise ValueError(
                f"invalid log rotation config: {key} must be of type {expected.__name__}"
            )
        assert isinstance(value, int)
        if value < 0:
            raise ValueError(f"invalid log rotation config: {key} must be >=0 (set to {value})")
        found[key.lower()] = value
    return LogRotation(
        max_size_mb=found.get("maxsize", 0) or DEFAULT_MAX_SIZE_MB,
        max_age_days=found.get("maxage", 0),
        max_backups=found.get("maxbackups", 0),
        local_time=bool(found.get("localtime", False)),
        compress=bool(found.get("compress", False)),
    )


class RotatingFile(logging.Handler):
    """Appends lines to a file of at most the size given; one line more only if it is longer."""

    def __init__(self, path: str, rotation: LogRotation) -> None:
        """Open the file. Raises OSError."""
        super().__init__()
        self._path = Path(path)
        self._rotation = rotation
        self._max_bytes = rotation.max_size_mb * MEGABYTE
        self._tidying = threading.Lock()
        self._tidiers: list[threading.Thread] = []
        self._open()
        if self._size >= self._max_bytes:
            self._rotate()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line with one system call."""
        try:
            line = (self.format(record) + "\n").encode(errors="backslashreplace")
            if self._size and self._size + len(line) > self._max_bytes:
                self._rotate()
            self._size += self._file.write(line)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Close the file, after put-aside ones were dealt with."""
        for tidier in self._tidiers:
            tidier.join()
        self._file.close()
        super().close()

    def _open(self) -> None:
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - closed by close
        self._size = os.fstat(self._file.fileno()).st_size

    def _rotate(self) -> None:
        self._file.close()
        os.rename(self._path, self._backup_path())
        self._open()
        self._tidiers = [tidier for tidier in self._tidiers if tidier.is_alive()]
        tidier = threading.Thread(target=self._tidy, name="log-rotation", daemon=True)
        self._tidiers.append(tidier)
        tidier.start()

    def _backup_path(self) -> Path:
        """Return a name that is not taken: milliseconds on from now if need be."""
        moment = datetime.now(UTC)
        while True:
            shown = moment.astimezone() if self._rotation.local_time else moment
            stamp = f"{shown.strftime(_STAMP)}.{shown.microsecond // 1000:03d}"
            path = self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")
            if not path.exists() and not Path(f"{path}.gz").exists():
                return path
            moment += timedelta(milliseconds=1)

    def _tidy(self) -> None:
        """Remove and compress put-aside files; what cannot be is left for the next time."""
        rotation = self._rotation
        with self._tidying, contextlib.suppress(OSError):
            kept = sorted(self._backups(), reverse=True)
            if rotation.max_backups:
                for path in kept[rotation.max_backups :]:
                    path.unlink(missing_ok=True)
                del kept[rotation.max_backups :]
            if rotation.max_age_days:
                oldest = time.time() - rotation.max_age_days * 86_400
                for path in [path for path in kept if path.stat().st_mtime < oldest]:
                    path.unlink(missing_ok=True)
                    kept.remove(path)
            if rotation.compress:
                for path in kept:
                    if path.suffix != ".gz":
                        _compress(path)

    def _backups(self) -> Iterator[Path]:
        """The put-aside files of this log; others beside it are left alone."""
        for path in self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}*"):
            name = path.name.removesuffix(".gz").removesuffix(self._path.suffix)
            stamp, point, milliseconds = name.removeprefix(f"{self._path.stem}-").partition(".")
            if not point or not milliseconds.isdigit():
                continue
            with contextlib.suppress(ValueError):
                datetime.strptime(stamp, _STAMP)
                yield path


def _compress(path: Path) -> None:
    """Pack a file: complete under its new name before the old one goes."""
    partial = Path(f"{path}.gz.partial")
    with path.open("rb") as source, gzip.open(partial, "wb") as target:
        shutil.copyfileobj(source, target)
    os.utime(partial, (path.stat().st_atime, path.stat().st_mtime))
    partial.rename(f"{path}.gz")
    path.unlink()
