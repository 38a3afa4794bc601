"""One compact block for a batch of raft entries, shared by the log and the peer transport.

A batch is encoded as a whole: columns (terms, lengths, kinds) first, then all data joined, so that
the work for each entry is done by C loops and not by Python calls. The price is that a block can
only be decoded whole. No checksum here: the log's frames and the transport have their own.

Layout, little-endian:

    u64 first index | u32 count | u32 number of term runs
    runs    x (u64 term, u32 entries)     terms in a log hardly change: usually one run
    count   x u32 data length
    count   x u8 kind
    data of all entries, joined
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, groupby, pairwise, repeat

from kvstore.storage.errors import CodecError
from raft import Entry

_HEAD = struct.Struct("<QII")
_RUN = struct.Struct("<QI")


def encode_entries(first_index: int, entries: Sequence[Entry]) -> bytes:
    """Encode entries whose first has index `first_index`; the layout is in the module's docstring.

    Terms are 0..2^64-1, kinds 0..255, data 0..2^32-1 bytes each; anything else raises
    `struct.error` or `ValueError`, which is a bug of the caller.
    """
    count = len(entries)
    if not count:
        return _HEAD.pack(first_index, 0, 0)
    terms, kinds, datas = zip(*entries, strict=True)
    if terms.count(terms[0]) == count:
        runs = [_RUN.pack(terms[0], count)]
    else:
        runs = [_RUN.pack(term, len(list(group))) for term, group in groupby(terms)]
    lengths = struct.pack(f"<{count}I", *map(len, datas))
    return b"".join(
        (_HEAD.pack(first_index, count, len(runs)), *runs, lengths, bytes(kinds), *datas)
    )


def decode_entries(data: bytes | memoryview, offset: int = 0) -> tuple[int, list[Entry], int]:
    """Decode the block at `offset`: (first index, entries, offset just behind the block).

    The data of the entries are copies: nothing keeps the input alive. Raises `CodecError` when the
    block does not fit in `data` or contradicts itself.
    """
    size = len(data)
    if offset + _HEAD.size > size:
        raise CodecError(f"entry block is cut in its head: {size - offset} bytes")
    first_index, count, run_count = _HEAD.unpack_from(data, offset)
    lengths_at = offset + _HEAD.size + run_count * _RUN.size
    kinds_at = lengths_at + 4 * count
    data_at = kinds_at + count
    if data_at > size:
        raise CodecError(f"entry block is cut: {count} entries do not fit in {size - offset} bytes")
    terms = _decode_terms(data, lengths_at - run_count * _RUN.size, run_count, count)
    lengths = struct.unpack_from(f"<{count}I", data, lengths_at)
    end = data_at + sum(lengths)
    if end > size:
        raise CodecError(f"entry block is cut: data end at {end}, the input at {size}")
    kinds = bytes(data[kinds_at:data_at])
    # One copy of all data first: slices of bytes are bytes, and cheaper than slices of a view.
    blob = data if isinstance(data, bytes) else bytes(data[data_at:end])
    start = data_at if blob is data else 0
    datas = [blob[a:b] for a, b in pairwise(accumulate(lengths, initial=start))]
    return first_index, list(zip(terms, kinds, datas, strict=False)), end


def _decode_terms(
    data: bytes | memoryview, offset: int, run_count: int, count: int
) -> Iterable[int]:
    """The term of each entry, in order; the caller has checked that the runs are inside `data`."""
    if run_count == 1:
        term, length = _RUN.unpack_from(data, offset)
        if length == count:
            return repeat(term)
    runs = list(_RUN.iter_unpack(data[offset : offset + run_count * _RUN.size]))
    if sum(length for _, length in runs) != count:
        raise CodecError(f"entry block contradicts itself: its term runs do not add up to {count}")
    return chain.from_iterable(repeat(term, length) for term, length in runs)
