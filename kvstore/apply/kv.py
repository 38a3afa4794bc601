"""The key-value requests as the node and the services use them: checks, writes and reads.

Only names live here: the checks are in `checks.py`, single operations in `operations.py`,
transactions in `txn.py`. The trade-off: one more file, and in return one import for the callers.
"""

from kvstore.apply.checks import (
    MAX_TXN_OPS,
    check_delete_range,
    check_put,
    check_range,
    check_range_stream,
    check_txn,
)
from kvstore.apply.operations import (
    Answer,
    apply_delete_keys,
    apply_delete_range,
    apply_put,
    encode_range,
    range_body,
    range_body_steps,
)
from kvstore.apply.txn import (
    apply_txn,
    is_read_only_txn,
    is_serializable_txn,
    read_only_txn_body,
    read_only_txn_steps,
)

__all__ = [
    "MAX_TXN_OPS",
    "Answer",
    "apply_delete_keys",
    "apply_delete_range",
    "apply_put",
    "apply_txn",
    "check_delete_range",
    "check_put",
    "check_range",
    "check_range_stream",
    "check_txn",
    "encode_range",
    "is_read_only_txn",
    "is_serializable_txn",
    "range_body",
    "range_body_steps",
    "read_only_txn_body",
    "read_only_txn_steps",
]
