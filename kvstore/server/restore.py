"""Makes the data directory of a member of a new cluster out of a snapshot file.

Everything is built under a name that no server looks at and renamed at the very end, so a restore
that is killed leaves nothing that would start; the next one clears it away. The same file and the
same cluster flags give every member the same data, so the members agree without having spoken.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvstore.membership.cluster import Cluster
from kvstore.membership.ids import compute_member_id
from kvstore.server.config import Config, verify_bootstrap
from kvstore.server.datadir import UNFINISHED, DataDirError, create_member
from kvstore.snapshot.file import open_snapshot
from kvstore.snapshot.load import Loaded, load
from kvstore.storage.durable import make_directory, replace_durably
from kvstore.storage.lmdb_backend import LmdbBackend

log = logging.getLogger("snapshot")


@dataclass(frozen=True, slots=True)
class Restore:
    """What to restore from, and whether to trust it."""

    path: str
    check_digest: bool = True
    """A snapshot must have a digest and match it."""
    bump_revision: int = 0
    """Raise the revision by so much and mark everything up to there as compacted; 0: neither."""


def restore_member(config: Config, restore: Restore) -> Loaded:
    """Restore the member that `config` names (name, directories, initial-* settings); durable.

    Raises:
        ConfigError: the settings do not make a cluster.
        DataDirError: the directories are in use, or cannot be written.
        SnapshotError, BoltDamaged: the snapshot cannot be used.
        StorageError: the disk refuses.
    """
    verify_bootstrap(config)
    data_dir = Path(config.data_dir)
    wal_dir = Path(config.wal_dir) if config.wal_dir else None
    try:
        with (
            open_snapshot(
                restore.path, digest_needed=restore.check_digest, check_digest=restore.check_digest
            ) as database,
            _claimed(data_dir, wal_dir) as unfinished,
        ):
            make_directory(str(unfinished / "snap"))
            backend = LmdbBackend(unfinished / "snap" / "db")
            try:
                loaded = load(database, backend, restore.bump_revision)
                _make_member(config, backend, wal_dir or unfinished / "wal")
            finally:
                backend.close()
            replace_durably(str(unfinished), str(data_dir / "member"))
    except OSError as error:
        raise DataDirError(f"restoring to {data_dir}: {error}") from error
    log.info(
        "restored snapshot",
        extra={
            "path": restore.path,
            "data-dir": str(data_dir),
            "revision": loaded.revision,
            "compact-revision": loaded.compact_revision,
        },
    )
    return loaded


def _make_member(config: Config, backend: LmdbBackend, wal_dir: Path) -> None:
    initial, token = dict(config.initial_cluster), config.initial_cluster_token
    cluster = Cluster.bootstrap(backend, initial, token)
    create_member(wal_dir, backend, cluster, compute_member_id(initial[config.name], token))


@contextmanager
def _claimed(data_dir: Path, wal_dir: Path | None) -> Iterator[Path]:
    """Check that nothing is there yet, and yield a new directory that goes away unless renamed."""
    made = not data_dir.exists()
    make_directory(str(data_dir))
    descriptor = os.open(data_dir, os.O_RDONLY)
    unfinished = data_dir / UNFINISHED
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirError(f"another restore is at work in {data_dir}") from None
        if set(os.listdir(data_dir)) - {UNFINISHED}:
            raise DataDirError(f'data-dir "{data_dir}" not empty or could not be read')
        if wal_dir is not None and wal_dir.exists():
            raise DataDirError(f'wal-dir "{wal_dir}" exists')
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            make_directory(str(unfinished))
            yield unfinished
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            if made and not os.listdir(data_dir):
                data_dir.rmdir()
    finally:
        os.close(descriptor)
