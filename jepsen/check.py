"""``python -m jepsen check PLACE``: judge a history again, as its run did."""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

from jepsen import history
from jepsen.chaos.judging import judge, summary
from jepsen.chaos.recorder import Recorder
from jepsen.chaos.runner import HISTORY
from jepsen.history import BadHistory, Op, Record
from jepsen.report import html
from jepsen.verdict import Validity, worst
from jepsen.workloads import WORKLOADS
from kvstore.version import own_version

EXIT_CODES: Final = {Validity.VALID: 0, Validity.INVALID: 1, Validity.UNKNOWN: 3}


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code: 0 valid, 1 invalid, 3 unknown, 2 no history."""
    parser = argparse.ArgumentParser(
        prog="python -m jepsen check",
        description="Judge a history.jsonl again. What a run asked its members itself (recovery,"
        " hashes, logs) is not in it. Exit code: 0 valid, 1 invalid, 3 unknown.",
    )
    parser.add_argument("place", type=Path, help="a run's directory, or a history file")
    parser.add_argument("--report", type=Path, help="write the HTML report, too")
    options = parser.parse_args(arguments)
    file = options.place / HISTORY if options.place.is_dir() else options.place
    try:
        records = list(history.read(file))
    except (OSError, BadHistory, UnicodeDecodeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return _judge(records, file, options.report)


def _judge(records: list[Record], file: Path, report: Path | None) -> int:
    recorder = Recorder()
    recorder.records = records
    there = {record.workload for record in records if isinstance(record, Op)}
    if unknown := sorted(there - set(WORKLOADS)):
        print(f"left out: no workload is called {', '.join(unknown)}")
    workloads = [kind(recorder, Random(0)) for name, kind in WORKLOADS.items() if name in there]
    verdicts = judge(records, workloads)
    sys.stdout.write(summary(verdicts))
    if report is not None:
        page = html.render(
            records,
            verdicts,
            title=f"{file}, judged again",
            command=shlex.join(["python", "-m", "jepsen", "check", str(file)]),
            facts={"kvstore": own_version(), "Python": platform.python_version()},
        )
        html.write(report, page)
        print(f"report: {report}")
    return EXIT_CODES[worst(verdicts)]
