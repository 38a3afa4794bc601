"""Raft consensus without I/O: `Raft` takes events in and hands effects out as `Ready`.

Import from here; the modules behind it are the package's own. Standard library only.
"""

from raft.confchange import (
    MAX_CHANGES,
    ConfChange,
    ConfChangeError,
    ConfChangeType,
    Transition,
    decode,
    encode,
)
from raft.log import Log
from raft.raft import Raft
from raft.read_only import MAX_FORWARDED_BATCHES, MAX_PENDING_READS
from raft.tracker import Progress, ProgressState
from raft.types import (
    CONF_CHANGE,
    ENTRY_OVERHEAD,
    FORCE_VOTE,
    MAX_COMMITTED_BYTES,
    NO_ANSWER,
    NORMAL,
    Config,
    ConfState,
    DropReason,
    Entry,
    HardState,
    Message,
    MessageKind,
    ProposalDropped,
    RaftError,
    ReadIndexDropped,
    Ready,
    Role,
    SnapshotMeta,
    SoftState,
)

encode_conf_change = encode
decode_conf_change = decode

__all__ = [
    "CONF_CHANGE",
    "ENTRY_OVERHEAD",
    "FORCE_VOTE",
    "MAX_CHANGES",
    "MAX_COMMITTED_BYTES",
    "MAX_FORWARDED_BATCHES",
    "MAX_PENDING_READS",
    "NORMAL",
    "NO_ANSWER",
    "ConfChange",
    "ConfChangeError",
    "ConfChangeType",
    "ConfState",
    "Config",
    "DropReason",
    "Entry",
    "HardState",
    "Log",
    "Message",
    "MessageKind",
    "Progress",
    "ProgressState",
    "ProposalDropped",
    "Raft",
    "RaftError",
    "ReadIndexDropped",
    "Ready",
    "Role",
    "SnapshotMeta",
    "SoftState",
    "Transition",
    "decode_conf_change",
    "encode_conf_change",
]
