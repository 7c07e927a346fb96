"""A connection pool, whole: correct under threads, first come first served, and never more than `size` connections.

The idea: a pool does not lend connections, it lends `size` slots. A slot is a connection, or None: room for one that
is not open. Slots are neither made nor lost. Whatever becomes of a connection, its slot comes back, and whoever gets
an empty one opens a new connection for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Lock
from typing import Generic, Protocol, TypeVar


class Connection(Protocol):
    """All that the pool asks of a connection."""

    @property
    def closed(self) -> bool:
        """Whether it is of no more use: closed, or broken."""

    def close(self) -> None:
        """Close it."""


C = TypeVar("C", bound=Connection)


class Pool(Generic[C]):
    """Up to `size` connections, opened by `connect` when first needed, each lent to one user at a time."""

    def __init__(self, connect: Callable[[], C], size: int) -> None:
        self._connect, self._size = connect, size
        self._slots: list[C | None] = [None] * size
        self._queue: deque[Condition] = deque()  # who wants a slot, the longest first
        self._lock = Lock()

    @contextmanager
    def connection(self, timeout: float = 30.0) -> Iterator[C]:
        """Borrow a connection for a `with` block. Raises `TimeoutError` when none comes free in `timeout` seconds."""
        slot = self._take(timeout)
        try:
            if slot is None:
                slot = self._connect()  # not under the lock: it takes long, and the others go on meanwhile
            yield slot
        finally:  # whatever happened: if `connect` failed or the connection broke, an empty slot comes back
            self._give(None if slot is None or slot.closed else slot)

    def close(self, timeout: float = 5.0) -> None:
        """Close each connection once it is back, for good: all slots are taken and none is given back.

        Raises `TimeoutError` when one stays away: somebody has leaked it.
        """
        for _ in range(self._size):
            if (slot := self._take(timeout)) is not None:
                slot.close()

    def _take(self, timeout: float) -> C | None:
        mine = Condition(self._lock)  # one for each who waits, so that a slot wakes one, not all
        with self._lock:
            self._queue.append(mine)
            try:
                if not mine.wait_for(lambda: self._slots and self._queue[0] is mine, timeout):  # nobody overtakes
                    raise TimeoutError(f"no connection came free within {timeout:g} s")
                return self._slots.pop()  # the one used last: so the fewest are opened, and the warmest are used
            finally:  # served, too late, or interrupted
                self._queue.remove(mine)
                self._wake()  # two slots may have come back before the first in the queue was awake

    def _give(self, slot: C | None) -> None:
        with self._lock:  # an empty one is taken last: while the server is down, the open ones stay in use
            self._slots.insert(0 if slot is None else len(self._slots), slot)
            self._wake()

    def _wake(self) -> None:
        if self._slots and self._queue:
            self._queue[0].notify()
