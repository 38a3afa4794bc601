"""Makes the data directory of a member of a new cluster out of a snapshot file.

Everything is built under a name that no server looks at and renamed at the very end, so a restore
that is killed leaves nothing that would start; the next one clears it away. The same file and the
same cluster flags give every member the same data, so the members agree without having spoken.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvstore.bbolt.errors import BoltDamaged
from kvstore.bbolt.reader import Database
from kvstore.membership.cluster import Cluster
from kvstore.membership.ids import compute_member_id
from kvstore.server.config import Config
from kvstore.server.datadir import LOCK_FILE, UNFINISHED, DataDirError, create_member, lock
from kvstore.server.rules import verify_bootstrap
from kvstore.snapshot.errors import SnapshotError
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
        SnapshotError, OSError: the snapshot cannot be used, or not be read.
        StorageError: the disk refuses.
    """
    verify_bootstrap(config)
    data_dir = Path(config.data_dir)
    wal_dir = Path(config.wal_dir) if config.wal_dir else None
    with open_snapshot(
        restore.path, digest_needed=restore.check_digest, check_digest=restore.check_digest
    ) as database:
        try:
            with _claimed(data_dir, wal_dir) as unfinished:
                loaded = _fill(config, database, restore.bump_revision, unfinished, wal_dir)
                replace_durably(str(unfinished), str(data_dir / "member"))
        except (SnapshotError, BoltDamaged) as error:
            raise SnapshotError(f"{restore.path}: {error}") from error
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


def _fill(
    config: Config, database: Database, bump: int, root: Path, wal_dir: Path | None
) -> Loaded:
    """Make the member's backend and log in a new directory."""
    make_directory(str(root / "snap"))
    backend = LmdbBackend(root / "snap" / "db")
    try:
        loaded = load(database, backend, bump)
        initial, token = dict(config.initial_cluster), config.initial_cluster_token
        cluster = Cluster.bootstrap(backend, initial, token)
        member_id = compute_member_id(initial[config.name], token)
        create_member(wal_dir or root / "wal", backend, cluster, member_id)
    finally:
        backend.close()
    return loaded


@contextmanager
def _claimed(data_dir: Path, wal_dir: Path | None) -> Iterator[Path]:
    """Check that nothing is there yet, and yield a new directory that goes away unless renamed."""
    made = not data_dir.exists()
    unfinished = data_dir / UNFINISHED
    make_directory(str(data_dir))
    descriptor = lock(data_dir)
    try:
        if set(os.listdir(data_dir)) - {LOCK_FILE, UNFINISHED}:
            raise DataDirError(f'data-dir "{data_dir}" not empty or could not be read')
        ours = [data_dir if made else unfinished]
        try:
            if wal_dir is not None and wal_dir.exists():
                raise DataDirError(f'wal-dir "{wal_dir}" exists')
            if wal_dir is not None:
                ours.append(wal_dir)
            shutil.rmtree(unfinished, ignore_errors=True)
            make_directory(str(unfinished))
            yield unfinished
        except BaseException:
            for path in ours:
                shutil.rmtree(path, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)
