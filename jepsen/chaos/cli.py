"""``python -m jepsen chaos`` (also ``kvstore chaos``): break a cluster of real processes."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from jepsen.chaos import judging
from jepsen.chaos.faults import FAULTS
from jepsen.chaos.runner import HISTORY, NotStarted, Plan, Result, run
from jepsen.mutants.guard import Refused, require_source_checkout
from jepsen.mutants.launch import program
from jepsen.mutants.registry import Mutant, mutants
from jepsen.options import above_zero, whole
from jepsen.report import html
from jepsen.verdict import Validity
from jepsen.workloads import WORKLOADS
from kvstore.testing import namespaces, unshare
from kvstore.version import own_version

EXIT_CODES = {Validity.VALID: 0, Validity.INVALID: 1, Validity.UNKNOWN: 3}


TERMS: Final = """\
what the summary says, a line for each check:
  valid     all that was seen agrees with the promises
  invalid   a promise was broken; the findings are below, with their operations in the report
  unknown   too little was seen, or judging took too much: no kind of valid
  checked   how many operations (or members, snapshots) this check has judged

the checks of every run:
  recovery    after the healing every member served again
  hashes      members with equal revision have equal contents
  logs        no member crashed, or ended by itself
  faults      what faults looked at: restored snapshots, damaged members
  worth       enough operations succeeded, and the faults had an effect
  monotonic   revisions never went back, for nobody
  durability  what was acknowledged is on every member in the end
and those of the workloads, by their names; of register: linearizable (by search) and
revisions (by what the cluster claims)
"""


def _described(kinds: Mapping[str, type]) -> str:
    """Each name with the first line of what its class says."""
    return "".join(
        f"  {name:18} {(kind.__doc__ or '').strip().splitlines()[0]}\n"
        for name, kind in kinds.items()
    )


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="kvstore chaos",
        description="Run workloads against a cluster of real processes, break it, and check that"
        " it kept its promises. Exit code: 0 valid, 1 invalid, 2 wrong options, or the cluster did"
        " not start, 3 unknown.",
        epilog=f"{TERMS}\nworkloads:\n{_described(WORKLOADS)}\nfaults:\n{_described(FAULTS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--seconds", type=above_zero, default=60, help="how long faults come (default 60)"
    )
    made.add_argument("--size", type=whole(1, 9), default=3, help="members, 1 to 9 (default 3)")
    made.add_argument("--seed", type=int, help="of everything that is drawn (default: the time)")
    made.add_argument("--clients", type=whole(1), default=4, help="for each workload (default 4)")
    made.add_argument(
        "--rate", type=above_zero, default=50, help="operations a second of a client (default 50)"
    )
    made.add_argument(
        "--fault-seconds", type=above_zero, default=4, help="mean length of a fault (default 4)"
    )
    made.add_argument(
        "--pause-seconds", type=above_zero, default=3, help="mean time between two (default 3)"
    )
    made.add_argument(
        "--workloads", type=_names(WORKLOADS), default=tuple(WORKLOADS), help=_known(WORKLOADS)
    )
    made.add_argument("--faults", type=_names(FAULTS), default=tuple(FAULTS), help=_known(FAULTS))
    made.add_argument(
        "--network",
        choices=("proxies", "namespaces"),
        default="proxies",
        help="what links are made of: proxies on 127.0.0.1 (default), or namespaces with nftables,"
        " which need root and lose packets below TCP",
    )
    server = made.add_mutually_exclusive_group()
    server.add_argument("--binary", help="another server that takes etcd's flags, such as etcd")
    server.add_argument("--mutant", help="a server that is broken on purpose, from jepsen.mutants")
    made.add_argument(
        "--flags",
        type=_words,
        default=(),
        help="more flags for every member, as in a shell: --flags='--max-txn-ops=200 --pre-vote'",
    )
    made.add_argument(
        "--out", type=Path, help="where history, logs and report go (default: a new folder)"
    )
    return made


def _known(names: Iterable[str]) -> str:
    return "comma-separated, of: " + ", ".join(names)


def _names(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(filter(None, text.split(",")))
        if not chosen:
            raise argparse.ArgumentTypeError("names none")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return parse


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(arguments)
    seed = options.seed if options.seed is not None else int(time.time())
    extra: dict[str, Any] = {"program": (options.binary,)} if options.binary else {}
    if options.mutant:
        try:
            extra["program"] = _broken(options.mutant)
        except Refused as refused:
            sys.stderr.write(f"--mutant: {refused}\n")
            return 2
    binary = extra.get("program", ("",))[0]
    if binary and shutil.which(binary) is None:
        sys.stderr.write(f"--binary: there is no program {binary}\n")
        return 2
    if options.network == "namespaces" and (why := namespaces.missing()):
        sys.stderr.write(f"--network=namespaces: {why}\n")
        return 2
    directory = options.out or Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.stderr.write(f"--out: {error}\n")
        return 2
    plan = Plan(
        seed,
        workloads=options.workloads,
        faults=options.faults,
        size=options.size,
        seconds=options.seconds,
        fault_s=options.fault_seconds,
        pause_s=options.pause_seconds,
        clients=options.clients,
        rate=options.rate,
        flags=options.flags,
        network=options.network,
        directory=directory,
        **extra,
    )
    if (directory / "members").exists():
        sys.stderr.write(f"--out: {directory} holds the members of another run\n")
        return 2
    if plan.network == "namespaces":
        unshare.enter()
    ended_by = signal.SIGINT

    def end(number: int, _: object) -> None:
        """As Ctrl-C does: the history is written, members, mounts and proxies are cleared away."""
        nonlocal ended_by
        ended_by = signal.Signals(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a script
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, end)
    try:
        print(f"seed {seed}, in {directory}", flush=True)
        result = run(plan, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        written = directory / HISTORY
        how = (
            f"as far as it came: {written}" if written.exists() else "clients had done nothing yet"
        )
        sys.stderr.write(f"\ninterrupted; {how}\n")
        return 128 + ended_by
    except NotStarted as error:
        sys.stderr.write(f"the cluster did not start: {error}\n")
        return 2
    sys.stdout.write(summary(result))
    if options.mutant:
        print(f"mutant {options.mutant}: {_found(result, mutants()[options.mutant])}")
    report = directory / "report.html"
    command = shlex.join(
        ["kvstore", "chaos", f"--seed={seed}", *_without(arguments, "--seed", "--out")]
    )
    html.write(report, page(result, command))
    print(f"report: {report}")
    print(f"repeat: {command}")
    print(f"judge again: python -m jepsen check {shlex.quote(str(directory))}")
    return EXIT_CODES[result.validity]


def _broken(name: str) -> tuple[str, ...]:
    """The program of a mutant. Raises Refused, with names that are close to an unknown one."""
    require_source_checkout()
    if name not in mutants():
        close = get_close_matches(name, mutants(), n=5, cutoff=0.4)
        told = f"; close to it: {', '.join(close)}" if close else ""
        raise Refused(f"there is no {name!r}{told} (docs/reliability.md has all)")
    return program(name)


def _found(result: Result, mutant: Mutant) -> str:
    """Whether what was found is what is broken."""
    said = {
        f"{verdict.checker}: {finding.kind}"
        for verdict in result.verdicts
        for finding in verdict.findings
        if verdict.validity is Validity.INVALID
    }
    if said & set(mutant.told_by):
        return "found"
    other = f" (only: {', '.join(sorted(said))})" if said else ""
    return f"NOT found{other}; docs/reliability.md says what finds it"


def _without(arguments: Sequence[str], *options: str) -> list[str]:
    kept, skip = [], False
    for word in arguments:
        if skip or (word.partition("=")[0] in options and "=" in word):
            skip = False
        elif word in options:
            skip = True
        else:
            kept.append(word)
    return kept


def page(result: Result, command: str) -> str:
    """Return the report of a run."""
    plan = result.plan
    facts = {
        "seed": str(plan.seed),
        "members": f"{plan.size} × {shlex.join(plan.program)} {shlex.join(plan.flags)}",
        "server": _version(plan.program),
        "network": plan.network,
        "clients": f"{plan.clients} for each workload, {plan.rate:g} operations a second each",
        "kvstore": own_version(),
        "Python": platform.python_version(),
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
    }
    return html.render(
        result.records,
        result.verdicts,
        title=f"Chaos, seed {plan.seed}",
        command=command,
        facts=facts,
        left_out=result.left_out,
    )


def _version(program: Sequence[str]) -> str:
    """What the members' program says of itself, in one line."""
    try:
        told = subprocess.run(
            [*program, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    return "; ".join(told.stdout.split("\n")[:2]).rstrip("; ") or "unknown"


def summary(result: Result) -> str:
    """Return the verdicts as text."""
    return judging.summary(result.verdicts)
