"""Makes the table of scenarios in docs/reliability.md from ``scenarios.tsv`` (`make scenarios`).

A scenario is a bug that a consensus store once had, or nearly had, and the promise that it broke.
Each is shown by tests named in the table: on the member core or a simulated cluster (*simulated*),
and with processes, real files or real power cuts where the promise is about these (*real*). The
sources are read for the names, so that a test that was renamed is missed at once.
"""

from __future__ import annotations

import ast
import csv
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).parent / "scenarios.tsv"
DOCUMENT = ROOT / "docs" / "reliability.md"
COUNT = 40
BEGIN, END = "<!-- scenarios: begin -->", "<!-- scenarios: end -->"
HEAD = """# Reliability

How this project looks for its own faults, and what that has found.
"""
SECTION = f"""
## Scenarios: known bugs of others, shown here

Forty things that went wrong in etcd or its kin, each as a promise and the tests that show it.
Numbers are issues and pull requests of etcd-io/etcd unless another repository is named. *Simulated*
is the member core, or a whole cluster, on virtual time; *real* is processes, files or power cuts.
`make scenarios` makes the table from `tests/scenarios/scenarios.tsv`.

{BEGIN}
{END}
"""


class Scenario(NamedTuple):
    """One row. ``note`` says what is not shown, and why."""

    number: int
    issues: str
    promise: str
    simulated: tuple[str, ...]
    real: tuple[str, ...]
    note: str


def scenarios() -> list[Scenario]:
    """All rows, in their order."""
    with TABLE.open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [
            Scenario(
                int(row["number"]),
                row["issues"],
                row["promise"],
                tuple(row["simulated"].split()),
                tuple(row["real"].split()),
                row["note"] or "",
            )
            for row in rows
        ]


@cache
def defined(path: Path) -> frozenset[str]:
    """Names of the functions at the top of a file."""
    nodes = ast.parse(path.read_text()).body
    functions = (n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions)


def missing(tests: Iterable[str]) -> list[str]:
    """Those of some test ids that do not exist."""
    gone = []
    for test in tests:
        name, _, function = test.partition("::")
        path = ROOT / name
        if not path.is_file() or function not in defined(path):
            gone.append(test)
    return gone


def table() -> str:
    """The table in Markdown."""
    lines = ["| | Promise | Simulated | Real |", "|--:|:--|:--|:--|"]
    for row in scenarios():
        text = f"{row.promise} ({row.issues})" + (f". *{row.note}*" if row.note else "")
        simulated, real = (", ".join(map(_link, tests)) or "-" for tests in row[3:5])
        lines.append(f"| {row.number} | {text} | {simulated} | {real} |")
    return "\n".join(lines)


def _link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[{name.removeprefix('test_')}](../{path})"


def updated(document: str) -> str:
    """The document with the table as it should be now; all else in it stays."""
    if BEGIN not in document:
        document = (document or HEAD) + SECTION
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(updated(DOCUMENT.read_text() if DOCUMENT.exists() else ""))
    sys.stdout.write(f"{len(scenarios())} scenarios\n")
