"""Virtual time: what waits for a paused process, and what a callback may not hide."""

from __future__ import annotations

import asyncio

import pytest

from jepsen.sim.aio import new_event_loop
from jepsen.sim.loop import Loop, Process


def test_what_waits_for_a_paused_process_follows_at_once_when_it_resumes() -> None:
    loop, process, ran = Loop(0), Process(), list[tuple[str, float]]()

    def note(what: str) -> None:
        ran.append((what, loop.now))

    process.paused_until = 4.0
    for what in ("first", "second"):
        loop.after(0.5, what, lambda what=what: note(what), process)
    loop.at_once("before both", lambda: note("before both"), process)
    loop.after(1.0, "resume", lambda: loop.resume(process))
    loop.after(3.0, "later", lambda: note("later"), process)
    loop.run_until(5.0)
    assert ran == [("before both", 1.0), ("first", 1.0), ("second", 1.0), ("later", 3.0)]


def test_what_waits_goes_with_the_life_that_planned_it() -> None:
    loop, process, ran = Loop(0), Process(), list[float]()
    process.paused_until = 4.0
    loop.at_once("lost", lambda: ran.append(loop.now), process)
    loop.run_until(1.0)
    process.life += 1
    loop.resume(process)
    loop.run_until(5.0)
    assert ran == []


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()])
@pytest.mark.parametrize("timer", [False, True])
def test_an_exception_of_a_callback_ends_the_run(error: BaseException, timer: bool) -> None:
    loop, process = Loop(0), Process()
    aio = new_event_loop(loop, process, "n1")

    def fail() -> None:
        raise error

    _ = aio.call_later(0.5, fail) if timer else aio.call_soon(fail)
    with pytest.raises((ValueError, AssertionError)):
        loop.run_until(1.0)


def test_a_cancelled_handle_is_not_called() -> None:
    loop, process, ran = Loop(0), Process(), list[int]()
    aio = new_event_loop(loop, process, "n1")
    handles = [aio.call_soon(ran.append, 1), aio.call_later(0.5, ran.append, 2)]
    for handle in handles:
        handle.cancel()
    _ = aio.call_soon(ran.append, 3)
    loop.run_until(1.0)
    assert ran == [3]
    assert all(handle.cancelled() for handle in handles)
