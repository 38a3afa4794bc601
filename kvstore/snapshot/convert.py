"""The export of a running server's backend as a process of its own.

    python -m kvstore.snapshot.convert <backend file> <file to write>

Why a process: a million keys are seconds of Python, which in a thread would take turns with the
event loop for the interpreter. The price is a slow start (0.2 s). What it says on standard output:
the line ``open`` once its point in time is fixed (from then on commits may go on), and at the end
one line of JSON, ``{"size": ..., "sha256": ...}``, or ``{"error": ...}`` with exit code 1.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Final

from kvstore.snapshot.export import export
from kvstore.snapshot.file import sha256_of
from kvstore.storage.errors import StorageError
from kvstore.storage.lmdb_file import LmdbFile

OPENED: Final = b"open\n"
_NICENESS: Final = 10
"""The server that works on meanwhile comes first."""


def main(source: str, target: str) -> int:
    """Run the export; return the exit code."""
    os.nice(_NICENESS)
    try:
        tables = LmdbFile(source)
        sys.stdout.buffer.write(OPENED)
        sys.stdout.flush()
        with open(target, "w+b") as file:
            size = export(tables, file)
            digest = sha256_of(file, size)
    except (OSError, StorageError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"size": size, "sha256": digest.hex()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
