"""Queues on paper: how long one waits, and how much gets done, when requests share a few connections.

Two textbook models (Kleinrock, "Queueing Systems", volume 1, 1975, sections 3.5 and 3.8). Both take the times to be
exponential: short ones often, long ones now and then. All times are in one unit, and rates are per that unit.
"""

from __future__ import annotations

from itertools import accumulate
from math import exp, inf, log


def waiting_share(size: int, load: float) -> float:
    """The share of requests that find all `size` connections taken: Erlang C. `load` is arrival rate x hold time.

    Requests arrive at random and wait in one line without end (M/M/c); from `load` = `size` on, everybody waits.
    """
    _check(size, load)
    if load >= size:
        return 1.0
    blocked = 1.0  # Erlang B, which is what can be computed step by step without large numbers
    for servers in range(1, size + 1):
        blocked = load * blocked / (servers + load * blocked)
    return size * blocked / (size - load * (1 - blocked))


def mean_wait(size: int, rate: float, hold: float) -> float:
    """The mean wait of M/M/c, those who do not wait included; without end (inf) from a utilisation of 1 on."""
    load = rate * hold
    return waiting_share(size, load) * hold / (size - load) if load < size else inf


def wait_within(share: float, size: int, rate: float, hold: float) -> float:
    """The wait that this share of the requests does not exceed; `share=0.99` is the p99."""
    load = rate * hold
    if load >= size:
        return inf
    late = waiting_share(size, load)
    return max(0.0, log(late / (1 - share)) * hold / (size - load)) if late > 0 else 0.0


def closed_throughput(clients: int, size: int, hold: float, outside: float) -> float:
    """Requests per unit of time of `clients` that each spend `outside` without a connection, then need one for `hold`.

    Nobody new arrives while a client waits (the machine repairman's model, M/M/c//N): a closed loop.
    """
    _check(size, hold)
    if outside <= 0:
        return min(clients, size) / hold
    logs = [0.0]  # of the chance that k clients are at the pool, up to a common factor
    logs += accumulate(log((clients - k + 1) / outside) - log(min(k, size) / hold) for k in range(1, clients + 1))
    most = max(logs)
    weights = [exp(each - most) for each in logs]
    busy = sum(min(k, size) * weight for k, weight in enumerate(weights)) / sum(weights)
    return busy / hold


def _check(size: int, load: float) -> None:
    if size < 1 or load < 0:
        raise ValueError(f"size={size}, load={load}: a pool has a connection or more, and a load is not negative")
