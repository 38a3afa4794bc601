"""Makes docs/conformance.md: which behaviour of etcd is shown by which test, and how that ended.

A test shows an item by naming it in its docstring (``"MNT-13, 15: ..."`` or ``"MNT-05..08"``); the
sources are read for that, so that the list needs no run. How the tests ended comes from a run with
``--conformance`` (`conftest.py`). What has no test, or differs from etcd on purpose, has its
reason in ``notes.tsv``; flags that are not implemented have theirs in the flag table.
"""

from __future__ import annotations

import ast
import csv
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
DOCUMENT = ROOT / "docs" / "conformance.md"
NOT_RUN = "not run"

SECTIONS = {
    "GEN": "Common rules",
    "RNG": "Range",
    "RST": "RangeStream",
    "PUT": "Put",
    "DEL": "DeleteRange",
    "TXN": "Txn",
    "CMP": "Compaction",
    "WCH": "Watch",
    "LSE": "Lease",
    "CLU": "Cluster",
    "MNT": "Maintenance",
    "AUT": "Auth",
    "CON": "Lock, Election and recipes",
    "RFT": "Consistency, time-outs, retries",
    "HTP": "HTTP",
    "KUB": "kube-apiserver",
    "OTH": "Other clients",
    "JEP": "What checkers assert",
}

_NAMED = re.compile(rf"\b({'|'.join(SECTIONS)})-(\d\d)((?:(?:\.\.|, | and )\d\d\b(?!-))*)")
_FURTHER = re.compile(r"(\.\.|, | and )(\d\d)")


class Item(NamedTuple):
    """One behaviour. ``needed_by``: K kube-apiserver, C etcdctl, J checkers, Q a quirk, - none."""

    name: str
    needed_by: str
    title: str


def _table(name: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / name).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def items() -> dict[str, Item]:
    """All items by name, in the order of the sections."""
    rows = (Item(row["item"], row["needed_by"], row["title"]) for row in _table("items.tsv"))
    return {item.name: item for item in rows}


def notes() -> dict[str, str]:
    """Item name -> why it has no test, or how it was decided."""
    return {row["item"]: row["note"] for row in _table("notes.tsv")}


def named_in(text: str) -> Iterator[str]:
    """Names of the items in a docstring; ``X-01..03`` and ``X-01, 03`` are short for several."""
    for match in _NAMED.finditer(" ".join(text.split())):
        section, last = match[1], int(match[2])
        yield f"{section}-{last:02}"
        for joint, number in _FURTHER.findall(match[3]):
            first = last + 1 if joint == ".." else int(number)
            last = int(number)
            yield from (f"{section}-{i:02}" for i in range(first, last + 1))


def tests_by_item() -> dict[str, list[str]]:
    """Item name -> ids of the tests that name it (``tests/x/test_y.py::test_z``), sorted."""
    found: dict[str, set[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for test, docstring in _docstrings(ast.parse(path.read_text())):
            for name in named_in(docstring):
                found.setdefault(name, set()).add(f"{path.relative_to(ROOT).as_posix()}::{test}")
    return {name: sorted(tests) for name, tests in found.items()}


def _docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                yield from ((f"{node.name}::{name}", text) for name, text in _docstring(inner))
        else:
            yield from _docstring(node)


def _docstring(node: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
        yield node.name, ast.get_docstring(node) or ""


def unexplained() -> list[str]:
    """Items that are no quirks and have neither a test nor a note."""
    tests, known = tests_by_item(), notes()
    return [
        item.name
        for item in items().values()
        if "Q" not in item.needed_by and item.name not in tests and item.name not in known
    ]


def flag_reasons() -> list[tuple[str, str]]:
    """Flags and subcommands of etcd that this server does not implement, with the reason."""
    from kvstore.cli.flag_table import FLAGS
    from kvstore.cli.main import NOT_HERE

    flags = [(f"--{flag.name}", flag.reason) for flag in FLAGS if flag.reason]
    return flags + [(f"etcd {command}", reason) for command, reason in NOT_HERE.items()]


def metric_reasons() -> list[tuple[str, str]]:
    """Metrics of etcd that this server does not expose, with the reason."""
    from kvstore.server.metric_table import NOT_EXPOSED

    return sorted(NOT_EXPOSED.items())


def render(outcomes: Mapping[str, str]) -> str:
    """Return the document; ``outcomes``: test id -> how it ended."""
    tests, known = tests_by_item(), notes()
    shown = sum(name in tests for name in items())
    lines = [
        "# Conformance",
        "",
        "Which behaviours of etcd's v3 API this server keeps, and the test that shows each.",
        "Generated by `make conformance` from the tests' docstrings and a run of them.",
        "",
        "Needed by: K kube-apiserver, C etcdctl, J checkers of consistency, Q a quirk that no",
        "client is known to need.",
        "",
        f"{len(items())} items, {shown} of them shown by tests.",
    ]
    for section, title in SECTIONS.items():
        lines += [
            "",
            f"## {section}: {title}",
            "",
            "| Item | | Test | Status |",
            "|:--|:--|:--|:--|",
        ]
        for item in items().values():
            if item.name.startswith(section):
                lines += _rows(item, tests.get(item.name, []), known.get(item.name, ""), outcomes)
    lines += ["", "## Flags of etcd that are not implemented", "", "| Flag | Why |", "|:--|:--|"]
    lines += [f"| `{name}` | {reason} |" for name, reason in flag_reasons()]
    lines += ["", "## Metrics of etcd that are not exposed", "", "| Metric | Why |", "|:--|:--|"]
    lines += [f"| `{name}` | {reason} |" for name, reason in metric_reasons()]
    return "\n".join(lines) + "\n"


def _rows(item: Item, tests: list[str], note: str, outcomes: Mapping[str, str]) -> Iterator[str]:
    needed = "" if item.needed_by == "-" else f" ({item.needed_by})"
    text = f"{item.title}{needed}" + (f". *{note}*" if note else "")
    if not tests:
        yield f"| {item.name} | {text} | - | no test |"
        return
    for position, test in enumerate(tests):
        head = f"{item.name} | {text}" if position == 0 else " | "
        path, name = test.removeprefix("tests/").split("::", 1)
        yield f"| {head} | [{name}](../tests/{path}) | {outcomes.get(test, NOT_RUN)} |"


def without_status(lines: Iterable[str]) -> list[str]:
    """The document's lines without the column that only a run can fill."""
    return [line.rpartition(" | ")[0] if line.startswith("| ") else line for line in lines]


if __name__ == "__main__":
    sys.stdout.write("\n".join(unexplained()) + "\n")
