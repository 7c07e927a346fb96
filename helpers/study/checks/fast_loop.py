"""An asyncio loop for checks, in a thread of its own, whose clock jumps instead of waiting."""

from __future__ import annotations

import asyncio
import ctypes
import selectors
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any


class Impatient(selectors.DefaultSelector):
    """Doesn't wait: its clock jumps on instead, and by 10 ms in any case, so that those who poll get on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Events that are there already; without any timer it does wait, since then only a thread can go on."""
        if timeout is not None:
            self.now += max(timeout, 0.01)
            timeout = 0
        return super().select(timeout)


class FastLoop(asyncio.SelectorEventLoop):
    """A loop in which `asyncio.sleep(9)` takes no time, and comes out the same on any machine."""

    def __init__(self) -> None:
        self.selector = Impatient()
        super().__init__(self.selector)

    def time(self) -> float:
        """Seconds of its own clock."""
        return self.selector.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for threads however long they take: by this clock every time-out is over at once."""
        await super().shutdown_default_executor()


def in_a_loop_of_its_own(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What `main` returns or raises. In a thread of its own, since the notebook's thread has a running loop."""
    outcome: Future[Any] = Future()
    loop = FastLoop()

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                result = runner.run(main())
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        return outcome.result()
    except BaseException:
        if not outcome.done():
            _end(thread, loop)
        raise
    finally:
        thread.join(1.0)


def _end(thread: threading.Thread, loop: asyncio.AbstractEventLoop) -> None:
    """End a thread, even one in an endless loop, by raising `SystemExit` in it (which asyncio lets pass)."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)  # the alarm repeats; not while clearing up
    for _ in range(20):
        if not thread.is_alive():
            return
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        with suppress(RuntimeError):  # closed meanwhile
            loop.call_soon_threadsafe(lambda: None)  # in case it waits: the exception comes when it wakes
        thread.join(0.05)
