"""Waiting for sockets and for a moment, to some microseconds."""

from __future__ import annotations

import select
import selectors
from time import perf_counter

LATEST_S = 0.0003  # nobody is thought to be woken later than this
STEP_S = 0.00001


class Waiter:
    """A selector that is punctual.

    Who sleeps is woken late, by a timer and by a socket alike. How late is learned from the timers (their median, step
    by step); they are set so much earlier, and what is left of the time is spent asking instead of sleeping.
    """

    def __init__(self) -> None:
        self.sockets = selectors.DefaultSelector()
        self.lateness = 0.0  # seconds
        self.time = perf_counter()  # when what `wait` returned was there, as far as can be known

    def wait(self, seconds: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready. Nothing may be after so many seconds, or shortly before: then ask again. None: no end."""
        timeout = None if seconds is None else max(0.0, seconds - self.lateness)
        asleep = perf_counter()
        if hasattr(self.sockets, "fileno"):  # `select` waits to the microsecond, epoll rounds up to 1 ms
            select.select([self.sockets], [], [], timeout)
            ready = self.sockets.select(0)
        else:
            ready = self.sockets.select(timeout)
        self.time = perf_counter()
        slept = self.time - asleep
        if ready and slept > self.lateness:
            self.time -= self.lateness
        elif timeout and not ready:
            late = slept - timeout
            self.lateness = min(max(0.0, self.lateness + (STEP_S if late > self.lateness else -STEP_S)), LATEST_S)
        return ready

    def close(self) -> None:
        self.sockets.close()
