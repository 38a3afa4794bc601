"""Drawings of a run as SVG text: plots under bands of faults, and operations on a line of time.

Coordinates are pixels of the drawing. Text is escaped here and nowhere else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Final

from jepsen.history import Fault, Op, Outcome
from jepsen.report.series import NS_PER_S, Interval, Reign

WIDTH: Final = 1000
LEFT: Final = 64
RIGHT: Final = 12
PLOT_HEIGHT: Final = 110
ROW: Final = 18
_SPAN: Final = WIDTH - LEFT - RIGHT

COLOURS: Final = {"ok": "var(--ok)", "fail": "var(--fail)", "info": "var(--info)"}
_MEMBER_COLOURS: Final = ("#4477aa", "#ee8866", "#228833", "#aa3377", "#bbaa33", "#66ccee", "#777")


def _x(seconds: float, length: float) -> float:
    return LEFT + _SPAN * seconds / length


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} class="{style}">{escape(text)}</text>'


def _bands(faults: Sequence[Fault], length: float, height: float) -> list[str]:
    """Faults as bands behind a plot; what each is comes up under the pointer."""
    parts = []
    for fault in faults:
        start, end = fault.start / NS_PER_S, max(fault.end, fault.start) / NS_PER_S
        wide = max(1.5, _x(end, length) - _x(start, length))
        title = f"{fault.name} {' '.join(fault.targets)} {fault.detail} ({start:.1f}-{end:.1f} s)"
        parts.append(
            f'<rect class="band" x="{_x(start, length):.1f}" y="0" width="{wide:.1f}"'
            f' height="{height}"><title>{escape(title)}</title></rect>'
        )
    return parts


def _axis(length: float, y: float) -> list[str]:
    """Marks below a plot, at round seconds."""
    step = _round_step(length / 10)
    parts = [f'<line class="axis" x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>']
    for mark in range(int(length / step) + 1):
        x = _x(mark * step, length)
        parts.append(_text(x, y + 13, f"{mark * step:g} s", "small", "middle"))
    return parts


def _round_step(wanted: float) -> float:
    power = 10.0 ** math.floor(math.log10(max(wanted, 1e-3)))
    return next(power * f for f in (1, 2, 5, 10) if power * f >= wanted)


def throughput(intervals: Sequence[Interval], faults: Sequence[Fault], length: float) -> str:
    """Operations a second, stacked by outcome."""
    width = length / len(intervals)
    most = max((i.ok + i.fail + i.info) / width for i in intervals) or 1.0
    parts = _bands(faults, length, PLOT_HEIGHT)
    bar = _SPAN / len(intervals)
    for number, interval in enumerate(intervals):
        y = float(PLOT_HEIGHT)
        for name in ("ok", "fail", "info"):
            high = PLOT_HEIGHT * getattr(interval, name) / width / most
            y -= high
            if high:
                parts.append(
                    f'<rect x="{LEFT + number * bar:.2f}" y="{y:.1f}" width="{bar:.2f}"'
                    f' height="{high:.1f}" fill="{COLOURS[name]}"/>'
                )
    parts.append(_text(LEFT - 6, 10, f"{most:.0f}/s", "small", "end"))
    return _svg(PLOT_HEIGHT + 18, parts + _axis(length, PLOT_HEIGHT), "operations a second")


def latency(intervals: Sequence[Interval], faults: Sequence[Fault], length: float) -> str:
    """Median and 99th percentile of the latency, on a logarithmic scale from 0.1 ms to 10 s."""
    low, high = -4.0, 1.0
    parts = _bands(faults, length, PLOT_HEIGHT)

    def y(seconds: float) -> float:
        share = (math.log10(max(seconds, 1e-4)) - low) / (high - low)
        return PLOT_HEIGHT * (1 - min(max(share, 0.0), 1.0))

    for power, name in ((-3, "1 ms"), (-2, "10 ms"), (-1, "100 ms"), (0, "1 s")):
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y(10.0**power):.1f}" x2="{WIDTH - RIGHT}"'
            f' y2="{y(10.0**power):.1f}"/>'
        )
        parts.append(_text(LEFT - 6, y(10.0**power) + 4, name, "small", "end"))
    bar = _SPAN / len(intervals)
    for share, style in ((0.99, "p99"), (0.5, "p50")):
        for number, interval in enumerate(intervals):
            value = interval.quantile(share)
            if value is not None:
                x = LEFT + (number + 0.5) * bar
                parts.append(f'<circle class="{style}" cx="{x:.1f}" cy="{y(value):.1f}" r="2"/>')
    return _svg(PLOT_HEIGHT + 18, parts + _axis(length, PLOT_HEIGHT), "latency")


def leaders(
    reigns: Sequence[Reign], members: Sequence[str], faults: Sequence[Fault], length: float
) -> str:
    """Who led when, a row for each member; the term is written where it fits."""
    height = ROW * max(1, len(members))
    parts = _bands(faults, length, height)
    for row, name in enumerate(members):
        parts.append(_text(LEFT - 6, row * ROW + 13, name, "small", "end"))
    for reign in reigns:
        if reign.member not in members:
            continue
        row = list(members).index(reign.member)
        x = _x(reign.start, length)
        wide = max(2.0, _x(reign.end, length) - x)
        colour = _MEMBER_COLOURS[row % len(_MEMBER_COLOURS)]
        title = f"{reign.member} leads term {reign.term}"
        parts.append(
            f'<rect x="{x:.1f}" y="{row * ROW + 3}" width="{wide:.1f}" height="{ROW - 6}" rx="2"'
            f' fill="{colour}"><title>{title}</title></rect>'
        )
        if wide > 26:
            parts.append(_text(x + 4, row * ROW + 13, str(reign.term), "inside"))
    return _svg(height + 18, parts + _axis(length, height), "leaders")


def faults_list(faults: Sequence[Fault], length: float) -> str:
    """Each kind of fault in a row of its own."""
    kinds = list(dict.fromkeys(fault.name for fault in faults))
    parts = []
    for row, kind in enumerate(kinds):
        parts.append(_text(4, row * ROW + 13, kind, "small"))
        for fault in faults:
            if fault.name != kind:
                continue
            x = _x(fault.start / NS_PER_S, length)
            wide = max(3.0, _x(fault.end / NS_PER_S, length) - x)
            title = f"{' '.join(fault.targets)} {fault.detail}, effect {fault.effect}"
            parts.append(
                f'<rect class="fault" x="{x:.1f}" y="{row * ROW + 3}" width="{wide:.1f}"'
                f' height="{ROW - 6}"><title>{escape(title)}</title></rect>'
            )
    height = ROW * max(1, len(kinds))
    return _svg(height + 18, parts + _axis(length, height), "faults")


def counter_example(ops: Sequence[Op]) -> str:
    """Operations as bars on the line of time, a row for each client: what contradicts itself."""
    if not ops:
        return ""
    first = min(op.start for op in ops)
    last = max(op.end for op in ops)
    length = max(last - first, 1) / NS_PER_S
    clients = sorted({op.client for op in ops})
    row_height = 34
    parts = []
    for row, client in enumerate(clients):
        parts.append(_text(4, row * row_height + 20, f"client {client}", "small"))
        for op in ops:
            if op.client != client:
                continue
            x = _x((op.start - first) / NS_PER_S, length)
            wide = max(4.0, _x((op.end - first) / NS_PER_S, length) - x)
            dash = ' stroke-dasharray="4 3"' if op.outcome is Outcome.INFO else ""
            parts.append(
                f'<rect class="op" x="{x:.1f}" y="{row * row_height + 14}" width="{wide:.1f}"'
                f' height="10" rx="3" stroke="{COLOURS[op.outcome]}"{dash}>'
                f"<title>{escape(told(op))}</title></rect>"
            )
            parts.append(_text(min(x, WIDTH - 260), row * row_height + 11, short(op), "small"))
    height = row_height * len(clients) + 6
    return _svg(height, parts, "counter-example")


def short(op: Op) -> str:
    """An operation in a few words."""
    value = "" if op.value is None else json.dumps(op.value)[:40]
    result = "" if op.result is None else " → " + json.dumps(op.result)[:40]
    at = f" @{op.revision}" if op.revision else ""
    return f"{op.f} {op.key} {value}{result}{at}"


def told(op: Op) -> str:
    """An operation in full."""
    result = json.dumps(op.result)
    if len(result) > 500:
        result = result[:500] + "…"
    return (
        f"{op.workload} {op.f} {op.key} {json.dumps(op.value)} on {op.member}:"
        f" {op.start / NS_PER_S:.6f}-{op.end / NS_PER_S:.6f} s, {op.outcome}, {result},"
        f" revision {op.revision} {op.error}"
    )
