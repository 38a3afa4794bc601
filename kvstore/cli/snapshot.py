"""``kvstore snapshot save | status | restore``: what etcdctl and etcdutl do with snapshot files.

Flags, output and most error texts are theirs; the files are theirs too, so each tool can be used on
what the other made. One difference: a digest is always checked where there is one, on saving too.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from kvstore.membership.urls import UrlError, parse_urls
from kvstore.server.config import DEFAULT_NAME, Config, ConfigError, parse_initial_cluster
from kvstore.server.datadir import DataDirError
from kvstore.server.restore import Restore, restore_member
from kvstore.snapshot.errors import SnapshotError
from kvstore.snapshot.file import open_snapshot
from kvstore.snapshot.schema import MAX_REVISION
from kvstore.snapshot.status import Status, status
from kvstore.storage.errors import StorageError

EXIT_ERROR: Final = 1
EXIT_BAD_ARGUMENTS: Final = 128
"""etcdutl's code for flags that contradict each other."""
DEFAULT_ENDPOINT: Final = "127.0.0.1:2379"
DEFAULT_PEER_URL: Final = "http://localhost:2380"
DIAL_TIMEOUT_S: Final = 5.0
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


class BadArguments(Exception):
    """The flags cannot be used together, or one has a bad value."""


def main(arguments: Sequence[str]) -> int:
    """Run ``kvstore snapshot`` with ``arguments``; return the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        options.run(options)
    except BadArguments as error:
        sys.stderr.write(f"Error: {error}\n")
        return EXIT_BAD_ARGUMENTS
    except (SnapshotError, StorageError, DataDirError, ConfigError, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return EXIT_ERROR
    return 0


def _save(options: argparse.Namespace) -> None:
    # Late: only saving needs a gRPC client.
    from kvstore.cli.snapshot_save import save

    endpoints = options.endpoints.split(",")
    if len(endpoints) != 1:
        raise BadArguments(
            f"snapshot must be requested to one selected node, not multiple [{' '.join(endpoints)}]"
        )
    version = save(endpoints[0], options.filename, options.dial_timeout)
    sys.stdout.write(f"Snapshot saved at {options.filename}\n")
    if version:
        sys.stdout.write(f"Server version {version}\n")


def _status(options: argparse.Namespace) -> None:
    with open_snapshot(options.filename) as database:
        try:
            found = status(database)
        except SnapshotError as error:
            raise SnapshotError(f"{options.filename}: {error}") from error
    sys.stdout.write(_WRITE[options.write_out](found) + "\n")


def _restore(options: argparse.Namespace) -> None:
    if bool(options.bump_revision) != options.mark_compacted:
        raise BadArguments("--mark-compacted required if --revision-bump > 0")
    name = options.name
    try:
        peer_urls = parse_urls(options.initial_advertise_peer_urls)
    except UrlError as error:
        raise BadArguments(f"--initial-advertise-peer-urls: {error}") from None
    config = Config(
        name=name,
        data_dir=options.data_dir or f"{name}.etcd",
        wal_dir=options.wal_dir,
        initial_advertise_peer_urls=peer_urls,
        initial_cluster=parse_initial_cluster(options.initial_cluster),
        initial_cluster_token=options.initial_cluster_token,
    )
    restore = Restore(
        options.filename,
        check_digest=not options.skip_hash_check,
        bump_revision=options.bump_revision,
    )
    loaded = restore_member(config, restore)
    sys.stdout.write(
        f"Restored {options.filename} to {config.data_dir} as member {name},"
        f" revision {loaded.revision}\n"
    )
    if loaded.auth_enabled:
        sys.stderr.write(
            "Warning: the snapshot is of a cluster with authentication enabled; users and roles are"
            " kept, but this release does not ask clients for them\n"
        )


def _simple(found: Status) -> str:
    return ", ".join(_row(found))


def _table(found: Status) -> str:
    header = ("HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION")
    row = _row(found)
    widths = [max(map(len, column)) for column in zip(header, row, strict=True)]
    line = "+".join(["", *("-" * (width + 2) for width in widths), ""])
    title = " | ".join(text.center(width) for text, width in zip(header, widths, strict=True))
    cells = " | ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
    return f"{line}\n| {title} |\n{line}\n| {cells} |\n{line}"


def _json(found: Status) -> str:
    record = asdict(found)
    keys = {"total_key": "totalKey", "total_size": "totalSize"}
    return json.dumps({keys.get(k, k): v for k, v in record.items()}, separators=(",", ":"))


_WRITE: Final = {"simple": _simple, "table": _table, "json": _json}


def _row(found: Status) -> tuple[str, ...]:
    size = human_bytes(found.total_size)
    return f"{found.hash:x}", str(found.revision), str(found.total_key), size, found.version


def human_bytes(size: int) -> str:
    """Return a size as etcd's tools print it: units of 1000, one decimal below 10."""
    if size < 10:
        return f"{size} B"
    unit = int(math.log10(size)) // 3
    value = math.floor(size / 1000**unit * 10 + 0.5) / 10
    return f"{value:.1f} {_UNITS[unit]}" if value < 10 else f"{value:.0f} {_UNITS[unit]}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kvstore snapshot",
        description="Save, look at and restore snapshots, files that etcd understands too.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="save | status | restore")
    save = commands.add_parser("save", help="ask a running member for one", allow_abbrev=False)
    save.set_defaults(run=_save)
    save.add_argument("filename")
    save.add_argument("--endpoints", "--endpoint", default=DEFAULT_ENDPOINT, help="(%(default)s)")
    save.add_argument(
        "--dial-timeout", type=float, default=DIAL_TIMEOUT_S, help="seconds (%(default)s)"
    )
    show = commands.add_parser("status", help="check a file and sum it up", allow_abbrev=False)
    show.set_defaults(run=_status)
    show.add_argument("filename")
    show.add_argument("-w", "--write-out", choices=tuple(_WRITE), default="simple")
    _add_restore(commands.add_parser("restore", help="make a data directory", allow_abbrev=False))
    return parser


def _add_restore(restore: argparse.ArgumentParser) -> None:
    restore.set_defaults(run=_restore)
    restore.add_argument("filename")
    restore.add_argument("--name", default=DEFAULT_NAME, help="of this member (%(default)s)")
    restore.add_argument("--data-dir", default="", help="must be new or empty (NAME.etcd)")
    restore.add_argument("--wal-dir", default="", help="must not exist (in the data directory)")
    restore.add_argument("--initial-cluster", default=f"{DEFAULT_NAME}={DEFAULT_PEER_URL}")
    restore.add_argument("--initial-cluster-token", default="etcd-cluster")
    restore.add_argument("--initial-advertise-peer-urls", default=DEFAULT_PEER_URL)
    restore.add_argument(
        "--skip-hash-check",
        type=_boolean,
        nargs="?",
        const=True,
        default=False,
        help="for a copy of a data directory's db, which has no digest",
    )
    restore.add_argument(
        "--bump-revision", type=_revisions, default=0, help="raise the latest revision by so much"
    )
    restore.add_argument(
        "--mark-compacted",
        type=_boolean,
        nargs="?",
        const=True,
        default=False,
        help="mark the latest revision as compacted (only and always with --bump-revision)",
    )


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def _revisions(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_REVISION):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to {MAX_REVISION}")
    return int(text)
