"""/livez and /readyz: named checks, run together or one by one (HTP-03, HTP-04).

What the checks look at is the server's business; here is how they are asked for and how the answer
looks. They run in the order given, each whether those before it failed or not.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kvstore.rpc.http import TEXT, Handler, Request, Response, error, get_only

Check = Callable[[], Awaitable[str]]
"""Returns why the check fails; empty when it holds."""

SUCCESS: Final = "success"
FAILURE: Final = "error"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ProbeCounts:
    """What the checks found so far.

    Attributes:
        last: (probe, check) → 1 when it held the last time, else 0.
        results: (probe, check, ``success`` or ``error``) → how often.
    """

    last: dict[tuple[str, ...], float] = field(default_factory=dict)
    results: dict[tuple[str, ...], float] = field(default_factory=dict)

    def count(self, probe: str, check: str, held: bool) -> None:
        self.last[probe, check] = float(held)
        key = probe, check, SUCCESS if held else FAILURE
        self.results[key] = self.results.get(key, 0.0) + 1


def probe_routes(
    probe: str, checks: Mapping[str, Check], counts: ProbeCounts
) -> dict[str, Handler]:
    """Return the routes ``/<probe>`` and ``/<probe>/<check>``."""

    async def run(names: list[str], request: Request) -> Response:
        failed = False
        lines = []
        for name in names:
            reason = await checks[name]()
            counts.count(probe, name, not reason)
            failed = failed or bool(reason)
            lines.append(f"[-]{name} failed: {reason}\n" if reason else f"[+]{name} ok\n")
        text = "".join(lines)
        if failed:
            log.warning("probe failed", extra={"path": request.path, "reason": text})
            return error(503, text)
        shown = text if "verbose" in request.query else ""
        headers = (("x-content-type-options", "nosniff"),)
        return Response(f"{shown}ok\n".encode(), 200, TEXT, headers)

    async def all_checks(request: Request) -> Response:
        excluded = request.query.get("exclude", [])
        return await run([name for name in checks if name not in excluded], request)

    def one_check(name: str) -> Handler:
        async def serve(request: Request) -> Response:
            return await run([name], request)

        return serve

    routes = {f"/{probe}/{name}": get_only(one_check(name)) for name in checks}
    return {f"/{probe}": get_only(all_checks), **routes}
