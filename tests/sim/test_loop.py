"""Virtual time: what waits for a paused process, and what a callback may not hide."""

from __future__ import annotations

import asyncio

import pytest

from jepsen.sim.aio import SimThread, new_event_loop
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


def test_what_a_delivery_makes_ready_runs_at_the_same_moment_and_in_order() -> None:
    loop = Loop(0)
    ours, others = (new_event_loop(loop, Process(), name) for name in ("n1", "n2"))
    ran = list[str]()

    def outside() -> None:
        ours.deliver(first)
        ran.append("behind the delivery")

    def first() -> None:
        assert asyncio.get_running_loop() is ours
        ours.call_soon(ran.append, "made ready by the first")
        others.deliver(lambda: ran.append("the other's turn"))
        ours.deliver(lambda: ran.append("delivered by the first"))
        ran.append("first")

    loop.after(0.5, "outside", outside)
    loop.run_until(1.0)
    assert ran == [
        "first",
        "made ready by the first",
        "delivered by the first",
        "behind the delivery",
        "the other's turn",
    ]


def test_a_delivery_waits_for_a_paused_process_and_goes_with_its_life() -> None:
    loop, process, ran = Loop(0), Process(), list[float]()
    aio = new_event_loop(loop, process, "n1")
    process.paused_until = 4.0
    for _ in range(2):
        aio.deliver(lambda: ran.append(loop.now))
    loop.run_until(3.0)
    assert ran == []
    loop.run_until(4.0)
    assert ran == [4.0, 4.0]
    process.life += 1
    aio.deliver(lambda: ran.append(loop.now))
    loop.run_until(5.0)
    assert ran == [4.0, 4.0]


def test_asyncio_has_no_running_loop_when_a_run_has_ended() -> None:
    loop = Loop(0)
    aio = new_event_loop(loop, Process(), "n1")
    running = list[asyncio.AbstractEventLoop]()
    loop.after(0.5, "event", lambda: aio.enter(lambda: running.append(asyncio.get_running_loop())))
    loop.run_until(1.0)
    aio.enter(lambda: running.append(asyncio.get_running_loop()))  # and between two runs
    assert running == [aio, aio]
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_each_of_what_a_resumed_process_was_sent_is_an_event() -> None:
    """Else the checks would not see what it was between two messages, such as a leader."""
    loop, process = Loop(0), Process()
    aio = new_event_loop(loop, process, "n1")
    seen, state = list[int](), [0]
    loop.look = lambda: (seen.append(state[0]), loop.touched.clear())[1]
    process.paused_until = 1.0
    for number in (1, 2, 3):
        aio.deliver(lambda number=number: state.__setitem__(0, number))
    loop.run_until(2.0)
    assert seen == [1, 2, 3]


def test_jobs_of_a_thread_that_follow_each_other_take_their_time_each() -> None:
    loop, process, jobs = Loop(0), Process(), 400
    aio = new_event_loop(loop, process, "n1")
    thread = SimThread(loop, process, "n1", lambda: 1.0)
    done = list[float]()

    async def one_after_the_other() -> None:
        for _ in range(jobs):
            await aio.run_in_executor(thread, done.append, loop.now)

    aio.enter(lambda: aio.create_task(one_after_the_other()))
    loop.run_until(2.0 * jobs)
    assert len(done) == jobs
    assert loop.events == jobs, "no job is started twice"
    assert 0.8 < done[-1] / jobs < 1.2


def test_nothing_of_a_buried_process_runs() -> None:
    loop = Loop(0)
    aio = new_event_loop(loop, Process(), "n1")
    woken, ran = aio.create_future(), list[str]()

    async def ends() -> None:
        try:
            await aio.create_future()
        finally:
            woken.set_result(None)

    async def waits() -> None:
        await woken
        ran.append("woken")

    aio.enter(lambda: (aio.create_task(ends()), aio.create_task(waits())))
    aio.bury()
    loop.run_until(1.0)
    assert ran == []


def test_what_was_ready_when_a_call_failed_still_runs() -> None:
    loop, ran = Loop(0), list[str]()
    aio = new_event_loop(loop, Process(), "n1")

    def fail() -> None:
        aio.call_soon(ran.append, "ready")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        aio.enter(fail)
    aio.deliver(lambda: ran.append("behind it"))
    loop.run_until(1.0)
    assert ran == ["ready", "behind it"]


@pytest.mark.parametrize("paused_s", [0.0, 0.5])
def test_an_exception_of_a_delivery_ends_the_run_with_a_violation(paused_s: float) -> None:
    loop, process = Loop(0), Process()
    aio = new_event_loop(loop, process, "n1")
    process.paused_until = paused_s

    def cancelled() -> None:
        raise asyncio.CancelledError

    loop.after(0.1, "delivery", lambda: aio.deliver(cancelled))
    with pytest.raises(AssertionError, match="CancelledError"):
        loop.run_until(1.0)
