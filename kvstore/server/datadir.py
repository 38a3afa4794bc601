"""The data directory: its layout, its lock, and how a member finds its state in it again.

Layout, as etcd's: ``<data-dir>/member/wal`` (or ``--wal-dir``) and ``<data-dir>/member/snap/db``.

The WAL is made last at a first start and its creation is atomic, so its presence means that
everything else is complete; a first start that was cut short simply begins again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kvstore.membership.cluster import Cluster
from kvstore.membership.ids import compute_member_id
from kvstore.node.bootstrap import FIRST_HARD_STATE, FIRST_INDEX, first_position
from kvstore.node.member import load_applied, store_applied
from kvstore.server.config import Config
from kvstore.server.join import check_new, find_cluster
from kvstore.server.rules import verify_bootstrap
from kvstore.storage.backend import REVISIONS
from kvstore.storage.errors import StorageError
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.wal import Recovered, Wal
from raft import HardState, SnapshotMeta

log = logging.getLogger("server")

FORMAT_VERSION = 1
"""Version of everything in a data directory; a newer one is refused."""

LOCK_FILE = "lock"
UNFINISHED = "member.restoring"
"""Directory in the data directory in which a restore is at work, until it becomes ``member``."""


class DataDirError(Exception):
    """The data directory cannot be used; the text names it and says why."""


class MemberRemoved(DataDirError):
    """The directory belongs to a member that was removed from its cluster."""


@dataclass(slots=True)
class State:
    """What a member starts from."""

    member_id: int
    cluster: Cluster
    backend: LmdbBackend
    snap_dir: Path
    wal: Wal
    recovered: Recovered
    applied: SnapshotMeta
    fresh: bool


def lock(data_dir: Path) -> int:
    """Create the directory and take its lock; return the open descriptor that holds it."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data_dir / LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirError(f"cannot write to data directory {data_dir}: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise DataDirError(f"data directory {data_dir} is in use by another process") from error
        raise DataDirError(f"cannot lock data directory {data_dir}: {error}") from error
    return descriptor


def received_snapshot(snap_dir: Path, index: int) -> Path:
    """Return where a snapshot received from the leader waits until it is installed."""
    return snap_dir / f"{index:016x}.snap"


def position_of(path: Path) -> SnapshotMeta:
    """Read the position of a backend file that nobody else has open."""
    backend = LmdbBackend(str(path))
    try:
        applied = load_applied(backend)
    finally:
        backend.close()
        Path(f"{path}-lock").unlink(missing_ok=True)
    return applied or SnapshotMeta()


def has_data(config: Config) -> bool:
    """Tell whether a member has started here before."""
    return Wal.exists(str(_wal_dir(config)))


def _wal_dir(config: Config) -> Path:
    return Path(config.wal_dir or f"{config.data_dir}/member/wal")


def open_state(config: Config) -> State:
    """Open what is there, or make the state of a new member.

    Raises:
        DataDirError, StorageError: with a text that names the directory or file.
        ConfigError, JoinError: a first start whose flags do not fit, together or to a cluster.
    """
    root = Path(config.data_dir) / "member"
    wal_dir = _wal_dir(config)
    snap_dir = root / "snap"
    if root.with_name(UNFINISHED).exists():
        raise DataDirError(
            f"a restore to {config.data_dir} was cut short: run it again, or remove"
            f" {UNFINISHED} in it for a member without data"
        )
    try:
        snap_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if Wal.exists(str(wal_dir)):
            return _reopen(config, wal_dir, snap_dir)
        return _first_start(config, wal_dir, snap_dir)
    except OSError as error:
        raise DataDirError(f"data directory {config.data_dir}: {error}") from error


def create_member(wal_dir: Path, backend: LmdbBackend, cluster: Cluster, member_id: int) -> None:
    """Make the state of one member of a new cluster durable: the backend, then the log.

    The backend is to be the ``db`` of the member's ``snap`` directory and holds the cluster
    (`Cluster.bootstrap`) and, when a snapshot is restored, the data; an older position in it is
    replaced. All members of the cluster must be given the same data. When this returns, the server
    starts from the two directories as from those of a stopped member.

    Args:
        wal_dir: where to make the log; must hold none.
        cluster: its members all become voters.
        member_id: one of them.

    Raises:
        StorageError: the log exists, or the disk refuses.
    """
    position = first_position(cluster.members)
    _create(wal_dir, backend, cluster, member_id, position, FIRST_HARD_STATE)


def _create(
    wal_dir: Path,
    backend: LmdbBackend,
    cluster: Cluster,
    member_id: int,
    position: SnapshotMeta,
    hard_state: HardState,
) -> None:
    store_applied(backend, position)
    backend.commit()
    metadata = {
        "version": FORMAT_VERSION,
        "member_id": member_id,
        "cluster_id": cluster.cluster_id,
    }
    encoded = json.dumps(metadata).encode()
    Wal.create(str(wal_dir), encoded, hard_state=hard_state, snapshot=position).close()


def _first_start(config: Config, wal_dir: Path, snap_dir: Path) -> State:
    """Bootstrap a member of a new cluster, or join a running one."""
    path = snap_dir / "db"
    _refuse_orphan(wal_dir, path)
    token = config.initial_cluster_token
    if config.initial_cluster_state == "new":
        verify_bootstrap(config)
        initial = dict(config.initial_cluster)
        member_id = compute_member_id(initial[config.name], token)
        check_new(config, member_id)
        backend = _empty_backend(snap_dir)
        cluster = Cluster.bootstrap(backend, initial, token)
        applied = first_position(cluster.members)
        create_member(wal_dir, backend, cluster, member_id)
    else:
        member_id, remote = find_cluster(config)
        backend = _empty_backend(snap_dir)
        cluster = Cluster.write(backend, remote.cluster_id, remote.members.values())
        # An empty log: the leader sends a snapshot, which brings the configuration.
        applied = SnapshotMeta()
        _create(wal_dir, backend, cluster, member_id, applied, HardState())
    wal, recovered = Wal.open(str(wal_dir))
    return State(member_id, cluster, backend, snap_dir, wal, recovered, applied, True)


def _empty_backend(snap_dir: Path) -> LmdbBackend:
    for name in os.listdir(snap_dir):
        os.unlink(snap_dir / name)
    return LmdbBackend(str(snap_dir / "db"))


def _refuse_orphan(wal_dir: Path, path: Path) -> None:
    """Refuse a backend that has been used but has no log: beginning again would wipe it.

    A first start that was cut short leaves a backend at its first index, and without data.
    """
    if not path.exists():
        return
    backend = LmdbBackend(str(path))
    try:
        applied = load_applied(backend) or SnapshotMeta()
        used = applied.index > FIRST_INDEX or any(backend.scan(REVISIONS, b"", None))
    finally:
        backend.close()
        Path(f"{path}-lock").unlink(missing_ok=True)
    if used:
        raise DataDirError(
            f"{path} holds data, but its log is missing in {wal_dir}: was another --wal-dir used,"
            " or is its disk not mounted?"
        )


def _reopen(config: Config, wal_dir: Path, snap_dir: Path) -> State:
    with ExitStack() as opened:
        state = _check_and_open(config, wal_dir, snap_dir, opened)
        opened.pop_all()
    return state


def _check_and_open(config: Config, wal_dir: Path, snap_dir: Path, opened: ExitStack) -> State:
    wal, recovered = Wal.open(str(wal_dir))
    opened.callback(wal.close)
    for note in recovered.notes:
        log.warning("%s", note)
    metadata = _metadata(wal_dir, recovered.metadata)
    path = snap_dir / "db"
    if not path.exists():
        raise DataDirError(f"{path} is missing, although the log in {wal_dir} belongs to it")
    backend = LmdbBackend(str(path))
    opened.callback(backend.close)
    applied = load_applied(backend)
    if recovered.snapshot.index > (applied.index if applied else 0):
        # Killed between the log's record of a received snapshot and its installation.
        received = received_snapshot(snap_dir, recovered.snapshot.index)
        if received.exists():
            backend.replace(received)
            applied = load_applied(backend)
    _remove_leftovers(snap_dir)
    cluster = Cluster.load(backend)
    if applied is None or cluster is None:
        raise DataDirError(f"{path} is not a backend of this server")
    last = recovered.snapshot.index + len(recovered.entries)
    if applied.index < recovered.snapshot.index or applied.index > last:
        raise DataDirError(
            f"{path} is at log index {applied.index}, outside of the log in {wal_dir}"
            f" ({recovered.snapshot.index} to {last}): one of the two was replaced or lost"
        )
    member_id = metadata["member_id"]
    if metadata["cluster_id"] != cluster.cluster_id:
        raise DataDirError(f"{path} is of another cluster than the log in {wal_dir}")
    _check_owner(config, cluster, member_id)
    return State(member_id, cluster, backend, snap_dir, wal, recovered, applied, False)


def _remove_leftovers(snap_dir: Path) -> None:
    """Remove what a crash left: snapshots on their way in or out, a packed copy of the backend."""
    for path in snap_dir.iterdir():
        if path.name not in ("db", "db-lock"):
            path.unlink()


def _metadata(wal_dir: Path, raw: bytes) -> dict[str, int]:
    try:
        metadata: dict[str, int] = json.loads(raw)
        version = metadata["version"]
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{wal_dir}: the log's metadata are not of this server") from None
    if version > FORMAT_VERSION:
        raise DataDirError(
            f"data directory {wal_dir.parent.parent} has format version {version}; this server"
            f" reads up to {FORMAT_VERSION}: start it with the newer version that wrote it"
        )
    return metadata


def _check_owner(config: Config, cluster: Cluster, member_id: int) -> None:
    """Refuse to start on the data of another member of the cluster."""
    owner = cluster.members.get(member_id)
    if owner is None:
        raise MemberRemoved(
            f"member {member_id:x}, whose data {config.data_dir} holds, has been permanently"
            " removed from its cluster; to join again, add a member and start it without data"
        )
    for other in cluster.members.values():
        if other.id != member_id and other.name and other.name == config.name:
            raise DataDirError(
                f"data directory {config.data_dir} belongs to member {owner.name!r}"
                f" ({member_id:x}), but --name={config.name} is member {other.id:x}"
            )
