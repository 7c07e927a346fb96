"""Several servers, each at several distances at once: all the slow networks between, in one process of their own.

For comparisons that change the distance all the time. A network that nobody uses sleeps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from helpers.testbed import slow_network
from helpers.testbed.program import running

Address = tuple[str, int]


@contextlib.contextmanager
def distances(targets: Sequence[Address], round_trips_ms: Sequence[float]) -> Iterator[list[list[Address]]]:
    """For every target its addresses, one for each round-trip time in ms."""
    with running(__name__, targets=list(targets), round_trips_ms=list(round_trips_ms)) as found:
        yield [[(host, port) for host, port in ways] for ways in found]


@contextlib.contextmanager
def program(targets: Sequence[Address], round_trips_ms: Sequence[float]) -> Iterator[list[list[Address]]]:
    """What the process does."""
    with contextlib.ExitStack() as networks:
        yield [
            [networks.enter_context(slow_network.program(list(target), far, None)) for far in round_trips_ms]
            for target in targets
        ]
