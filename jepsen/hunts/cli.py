"""``python -m jepsen hunts``: look for the known bugs of etcd in a server.

Results can be kept in a JSON file, each beside those of other servers, from which ``--table``
writes the table of ``docs/reliability.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from jepsen.hunts import absent, compactions, leases, permissions, reads, snapshots, watches
from jepsen.hunts.base import Hunt, Outcome, Result, Server, hunt

_MODULES: Final = (watches, compactions, snapshots, leases, reads, permissions, absent)
HUNTS: Final[dict[str, Hunt]] = {made.name: made for module in _MODULES for made in module.HUNTS}
RESULTS: Final = Path("docs/hunts.json")
DOCUMENT: Final = Path("docs/reliability.md")
BEGIN: Final = "<!-- hunts: begin -->"
END: Final = "<!-- hunts: end -->"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m jepsen hunts",
        description="Look for the known bugs of etcd. Exit code: 0 if our own server has none of"
        " them (of another server: always), 1 if it has one, 3 if one was not tried.",
    )
    made.add_argument("--binary", help="the server to look at (default: our own)")
    made.add_argument("--only", default="", help=f"comma-separated, of: {', '.join(HUNTS)}")
    made.add_argument("--cheap", action="store_true", help="only those that take a few seconds")
    made.add_argument("--json", type=Path, help="keep the results in this file, beside others'")
    made.add_argument("--out", type=Path, help="keep the members' files and logs here")
    made.add_argument("--table", action="store_true", help=f"write the table of {DOCUMENT}")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(arguments)
    if options.table:
        write_table(read(options.json or RESULTS))
        return 0
    names = tuple(filter(None, options.only.split(","))) or tuple(HUNTS)
    for name in names:
        if name not in HUNTS:
            sys.stderr.write(f"--only: {name!r} is none of {', '.join(HUNTS)}\n")
            return 2
    try:
        server = Server.of(options.binary) if options.binary else Server()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"--binary: {error}\n")
        return 2
    results = []
    for name in names:
        if options.cheap and not HUNTS[name].cheap:
            continue
        result = hunt(HUNTS[name], server, options.out)
        results.append(result)
        print(line(result), flush=True)
        if options.json:
            remember(options.json, [result])
    found = [result.hunt for result in results if result.outcome is Outcome.FOUND]
    print(f"\n{server}: {len(found)} of {len(results)} found: {', '.join(found) or 'none'}")
    if found and not options.binary:
        return 1
    return 3 if any(result.outcome is Outcome.NOT_TRIED for result in results) else 0


def line(result: Result) -> str:
    """Return a result as text."""
    cost = f"{_tries(result)}, {result.seconds:.1f} s"
    text = f"\n          {result.text}" if result.text else ""
    return (
        f"{result.hunt:20} {result.outcome.upper():17} {cost:20} {HUNTS[result.hunt].broken}{text}"
    )


# What is kept.


def read(path: Path) -> list[Result]:
    """Return what is kept in a file, nothing if there is none."""
    return (
        [Result.from_json(fields) for fields in json.loads(path.read_text())]
        if (path.exists())
        else []
    )


def remember(path: Path, results: Iterable[Result]) -> None:
    """Put results beside those of other hunts and servers."""
    kept = {(result.server, result.hunt): result for result in (*read(path), *results)}
    lines = ",\n".join(json.dumps(asdict(kept[key]), sort_keys=True) for key in sorted(kept))
    path.write_text(f"[\n{lines}\n]\n")


def write_table(results: Iterable[Result]) -> None:
    """Put the table between its marks in `DOCUMENT`."""
    head, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCUMENT.write_text(f"{head}{BEGIN}\n{table(results)}{END}{tail}")


def table(results: Iterable[Result]) -> str:
    """Return the table as Markdown: a row for each hunt, a column for each server."""
    by_place = {(result.hunt, result.server): result for result in results}
    servers = sorted({server for _, server in by_place})
    lines = [
        f"{_counts(by_place.values(), servers)}.",
        "",
        "| Bug | Promise | " + " | ".join(servers) + " |",
        "|---|---|" + "---|" * len(servers),
    ]
    for name, made in HUNTS.items():
        cells = " | ".join(_cell(by_place.get((name, server))) for server in servers)
        lines.append(f"| {name} | {made.broken} | {cells} |")
    lines += ["", "What was seen, and why some cannot be had:", ""]
    for name in HUNTS:
        told = [by_place[name, server] for server in servers if (name, server) in by_place]
        for text in dict.fromkeys(result.text for result in told if result.text):
            where = ", ".join(result.server for result in told if result.text == text)
            lines.append(f"- {name}, {where}: {_escaped(text)}")
    return "\n".join(lines) + "\n"


def _counts(results: Iterable[Result], servers: Sequence[str]) -> str:
    counts = dict.fromkeys(servers, 0)
    for result in results:
        counts[result.server] += result.outcome is Outcome.FOUND
    return "Found: " + ", ".join(f"{number} in {server}" for server, number in counts.items())


def _cell(result: Result | None) -> str:
    if result is None:
        return "not looked for"
    if result.outcome is Outcome.NOT_POSSIBLE:
        return str(result.outcome)
    outcome = f"**{result.outcome}**" if result.outcome is Outcome.FOUND else result.outcome
    return f"{outcome}, {_tries(result)}, {result.seconds:.1f} s"


def _tries(result: Result) -> str:
    return "1 try" if result.tries == 1 else f"{result.tries} tries"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")
