"""The one error tree of the storage package.

Everything the log, the backends and the snapshot files raise on purpose is here, so that the server
can tell "refuse to start" (corrupt), "end the process" (failed) and "answer an error" (copy failed)
apart by class. None of these texts reaches a client; the server maps them.
"""

from __future__ import annotations


class StorageError(Exception):
    """Root of all errors of this package."""


class CodecError(StorageError):
    """Bytes that claim to be an encoded block of entries are not one."""


class WalError(StorageError):
    """Root of the write-ahead log's errors."""


class WalCorrupt(WalError):
    """The log is damaged where no torn write can have damaged it: the member must not start.

    Attributes:
        file: path of the damaged (or missing) segment file.
        offset: position of the damage in the file, in bytes.
        reason: what was found there.
    """

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(f"write-ahead log is corrupt: {file} at offset {offset}: {reason}")
        self.file = file
        self.offset = offset
        self.reason = reason


class WalFailed(WalError):
    """A system call on the log failed. Nothing may be retried or acknowledged: end the process.

    After a failed fsync the kernel may have dropped the dirty pages and report success the next
    time, so a second try would prove nothing.

    Attributes:
        operation: what was tried, for example `fdatasync`.
        path: the file or directory it was tried on.
    """

    def __init__(self, operation: str, path: str, cause: object) -> None:
        super().__init__(f"write-ahead log failed: {operation} {path}: {cause}")
        self.operation = operation
        self.path = path


class WalNotInitialised(WalError):
    """The directory holds no log, or only what a first start left that did not complete."""

    def __init__(self, directory: str) -> None:
        super().__init__(f"no write-ahead log in {directory}")
        self.directory = directory


class WalExists(WalError):
    """A log was to be created where there already is one."""

    def __init__(self, directory: str) -> None:
        super().__init__(f"there already is a write-ahead log in {directory}")
        self.directory = directory


class WalLocked(WalError):
    """Another process (or another `Wal` of this one) has the log open."""

    def __init__(self, directory: str) -> None:
        super().__init__(f"the write-ahead log in {directory} is in use by another process")
        self.directory = directory


class BackendError(StorageError):
    """Root of the backends' errors."""


class CorruptBackend(BackendError):
    """A stored value does not match its checksum, or the file's structure is broken.

    Attributes:
        table: name of the table, empty when the file as a whole cannot be read.
        key: the key under which the damage was met.
    """

    def __init__(self, table: str, key: bytes, reason: str) -> None:
        super().__init__(f"backend is corrupt: table {table!r} key {key.hex()}: {reason}")
        self.table = table
        self.key = key
        self.reason = reason


class BackendFailed(BackendError):
    """A commit failed. LMDB would accept the next one all the same, so the process must end."""

    def __init__(self, operation: str, path: str, cause: object) -> None:
        super().__init__(f"backend failed: {operation} {path}: {cause}")
        self.operation = operation
        self.path = path


class CopyFailed(BackendError):
    """A copy could not be made (no space, say). The backend itself is untouched and serves on."""

    def __init__(self, path: str, cause: object) -> None:
        super().__init__(f"cannot copy the backend to {path}: {cause}")
        self.path = path


class SnapshotRejected(StorageError):
    """A received snapshot is not what its sender announced, or could not be kept.

    Nothing is left of it.
    """

    def __init__(self, path: str, reason: object) -> None:
        super().__init__(f"received snapshot {path} rejected: {reason}")
        self.path = path
