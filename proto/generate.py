"""Generate ``kvstore/pb/*_pb2.py`` (and type stubs) from the ``.proto`` files beside this script.

Run ``python proto/generate.py`` after a change of a ``.proto`` file; with ``--check`` nothing is
written and the exit code says whether the committed code is up to date (a test runs it so).

The generated code registers its messages in a descriptor pool of our own, not in protobuf's
process-wide default one: other etcd clients (aetcd, etcd3) register the same message names there,
and protobuf refuses the second of two equal names. With a pool of our own, an application can
import this package and any other etcd client.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent
TARGET = SOURCES.parent / "kvstore" / "pb"

_DEFAULT_POOL = "_descriptor_pool.Default()"
_POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool"


def _render(path: Path) -> str:
    """Return generated Python, changed to use the package's own descriptor pool."""
    text = path.read_text()
    if path.suffix == ".pyi":
        return text
    if text.count(_DEFAULT_POOL) != 1 or text.count(_POOL_IMPORT) != 1:
        raise SystemExit(f"{path.name}: protoc's output has a new shape; adapt {__file__}")
    text = text.replace(_POOL_IMPORT, "from kvstore.pb._pool import POOL as _POOL")
    return text.replace(_DEFAULT_POOL, "_POOL")


def generate() -> dict[str, str]:
    """Return file name -> content of all generated modules."""
    protos = sorted(str(p.relative_to(SOURCES)) for p in SOURCES.glob("kvstore/pb/*.proto"))
    with tempfile.TemporaryDirectory() as out:
        arguments = ["protoc", f"-I{SOURCES}", f"--python_out={out}", f"--pyi_out={out}"]
        if protoc.main([*arguments, *protos]) != 0:
            raise SystemExit("protoc failed")
        made = sorted((Path(out) / "kvstore" / "pb").iterdir())
        return {path.name: _render(path) for path in made}


def main() -> int:
    files = generate()
    if "--check" in sys.argv[1:]:
        stale = [n for n, t in files.items() if (TARGET / n).read_text() != t]
        print("stale: " + ", ".join(stale) if stale else "generated code is up to date")
        return 1 if stale else 0
    for name, text in files.items():
        (TARGET / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
