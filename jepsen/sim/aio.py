"""asyncio on virtual time: one event loop for each life of a member, over the one event queue.

The server's coroutines run here unchanged. What asyncio leaves to addresses in memory (the order of
a set of futures) is made to depend on nothing but the order of creation, and a thread pool is
modelled: work takes virtual time and is done at one moment at its end. When a process dies, so do
its tasks, in the order of their creation and without a say in it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar

from jepsen.sim.loop import Loop, Process

T = TypeVar("T")

THREAD_S = 0.001
"""Mean time of work in the default pool of threads."""
PRUNE_TASKS = 256


class SimHandle:
    """A callback that is to run: what tasks, futures and time-outs use of `asyncio.Handle`.

    asyncio's own ask their loop whether to debug, which costs much where there are so many.
    """

    __slots__ = ("args", "callback", "context", "loop", "off", "time")

    def __init__(
        self,
        callback: Callable[..., object],
        args: Any,
        loop: SimEventLoop,
        context: Context | None,
        time: float = 0.0,
    ) -> None:
        self.callback = callback
        self.args = args
        self.loop = loop
        self.context = copy_context() if context is None else context
        self.off = False
        self.time = time

    def cancel(self) -> None:
        """Let go of the callback; the handle stays in its queue."""
        self.off = True
        self.callback = _nothing
        self.args = ()

    def cancelled(self) -> bool:
        return self.off

    def when(self) -> float:
        """The time of a timer."""
        return self.time

    def run(self) -> None:
        """Call it. What it raises is for the loop."""
        try:
            self.context.run(self.callback, *self.args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.loop.call_exception_handler({"exception": error})

    def fire(self) -> None:
        """Call it because its time has come."""
        if not self.off:
            self.loop.enter(self.run)


class SimFuture(asyncio.Future[Any]):
    """A future whose place in a set depends on its number alone."""

    number: int
    """Set by `SimEventLoop.create_future`: an initializer would cost a call for each."""

    def __hash__(self) -> int:
        return self.number


class SimTask(asyncio.Task[Any]):
    """A task whose place in a set depends on its number alone."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, loop: SimEventLoop, **named: Any) -> None:
        self._number = loop.next_number()
        super().__init__(coro, loop=loop, **named)
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        return self._number


class SimThread(Executor):
    """One thread of a member: work is done in the order in which it was asked for.

    What a crash finds under way was done or not, by the toss of a coin; the rest was not.
    """

    def __init__(
        self, loop: Loop, process: Process, name: str, mean_s: Callable[[], float]
    ) -> None:
        self._loop = loop
        self._process = process
        self._name = name
        self._mean_s = mean_s
        self._jobs: deque[Callable[[], None]] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Do everything that waits, then this: for a caller that blocks until it is done."""
        while self._jobs:
            self._run_first()
        done: Future[T] = Future()
        done.set_result(fn(*args, **kwargs))
        return done

    def queue(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """There is nothing to end."""

    def crash(self) -> None:
        if self._jobs and self._loop.random.random() < 0.5:
            self._run_first()
        self._jobs.clear()

    def _start(self) -> None:
        delay = self._loop.random.expovariate(1 / max(self._mean_s(), 1e-6))
        job = self._jobs[0]

        def end() -> None:
            if self._jobs and self._jobs[0] is job:
                self._jobs.popleft()
                if self._jobs:
                    self._start()
                job()  # last: what it wakes may queue another

        self._loop.after(delay, f"{self._name} thread", end, self._process)

    def _run_first(self) -> None:
        self._jobs.popleft()()


class SimEventLoop(asyncio.AbstractEventLoop):
    """The loop of one life of a process."""

    def __init__(self, loop: Loop, process: Process, name: str) -> None:
        self._loop = loop
        self._process = process
        self._life = process.life
        self._name = name
        self._ready: deque[SimHandle] = deque()
        self._draining = False
        self._numbers = 0
        self._tasks: list[SimTask] = []
        self._label = f"{name} runs"
        self._timer_label = f"{name} timer"

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    @property
    def dead(self) -> bool:
        return self._process.life != self._life

    # What asyncio asks for.

    def time(self) -> float:
        return self._loop.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        handle = SimHandle(callback, args, self, context)
        if self._process.life == self._life:
            self._ready.append(handle)
            if len(self._ready) == 1 and not self._draining:
                self._loop.at_once(self._label, self._drain, self._process)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> SimHandle:
        return self.call_at(self._loop.now + max(delay, 0.0), callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> SimHandle:
        handle = SimHandle(callback, args, self, context, when)
        if not self.dead:
            delay = max(when - self._loop.now, 0.0)
            self._loop.after(delay, self._timer_label, handle.fire, self._process)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        future = SimFuture(loop=self)
        future.number = self.next_number()
        return future

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        assert self._loop.entered is self, "asyncio may take another loop for the running one"
        if self.dead:
            coro.close()
        task = SimTask(coro, loop=self, name=name or "", context=context)
        self._tasks.append(task)
        if len(self._tasks) % PRUNE_TASKS == 0:
            self._tasks = [task for task in self._tasks if not task.done()]
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                self.deliver(partial(_fail, future, error))
            else:
                self.deliver(partial(_succeed, future, result))

        if isinstance(executor, SimThread):
            executor.queue(work)
        else:
            delay = self._loop.random.expovariate(1 / THREAD_S)
            self._loop.after(delay, f"{self._name} pool", work, self._process)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nothing may fail unheard. What is left over when a process has died is no failure."""
        if not self.dead:
            error = context.get("exception")
            if not isinstance(error, Exception):  # such as CancelledError: a violation, too
                error = AssertionError(repr(error) if error else context.get("message"))
            self._loop.fail(error)

    # Running.

    def enter(self, work: Callable[[], T]) -> T:
        """Call something as if from a callback of this loop, then run what that makes ready, and
        what that makes ready, until nothing is: at one moment.

        Other members cannot come in between: what they send takes time. Within a callback, or while
        the process is paused, only the call itself is made; the rest waits for its turn.
        """
        loop, outer = self._loop, self._loop.entered
        loop.touched.append(self._process)
        loop.switch_to(self)
        if outer is not None or self._process.paused_until > loop.now:
            try:
                return work()
            finally:
                loop.switch_to(outer)
        self._draining = True
        try:
            result = work()
            self._run_ready()
            return result
        finally:
            self._draining = False
            loop.switch_to(None)
            if self._ready and not self.dead:  # an exception has come in between
                loop.at_once(self._label, self._drain, self._process)

    def deliver(self, work: Callable[[], object]) -> None:
        """Call something that comes from outside: now, behind what is ready, or when the process
        runs again; never, once it is dead. What it raises ends the run."""
        loop, process = self._loop, self._process
        if process.life != self._life:
            return
        if process.paused_until > loop.now:
            # Each by itself, so that the checks look behind each.
            loop.at_once(self._label, partial(self.deliver, work), process)
        elif self._ready or loop.entered is not None:
            self.call_soon(work)
        else:
            try:
                self.enter(work)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"exception": error})

    def _run_ready(self) -> None:
        loop, ready, process, life = self._loop, self._ready, self._process, self._life
        while ready and process.life == life and loop.failure is None:
            handle = ready.popleft()
            if not handle.off:
                try:  # as `SimHandle.run`, without the call: it is the busiest place
                    handle.context.run(handle.callback, *handle.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self.call_exception_handler({"exception": error})

    def _drain(self) -> None:
        self.enter(_nothing)

    def bury(self) -> None:
        """Close the coroutines of a dead process, so that the garbage collector has no say.

        The process may be one that lives to the end of the run: it is dead from now on, so that
        what the closing wakes does not run.
        """
        self._life = -1
        self._ready.clear()
        for task in self._tasks:
            if not task.done():
                coro = task.get_coro()
                with contextlib.suppress(BaseException):
                    self.enter(coro.close)
        self._tasks.clear()


def _nothing() -> None:
    pass


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def new_event_loop(loop: Loop, process: Process, name: str) -> SimEventLoop:
    """Make the loop of a life: one without sockets, signals and child processes."""
    return SimEventLoop(loop, process, name)  # type: ignore[abstract]
