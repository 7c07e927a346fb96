"""Round trips by protocol: over real packets that are delayed, TCP's SYN included, and through the slow network.

The whole number is what the protocol predicts. Over real packets `k` has TCP's own round trip in it, through the slow
network it has not: a proxy can't delay the SYN.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from helpers.experiments import connections as module
from helpers.measure import Estimate
from helpers.testbed import postgres
from tests.bench import packets

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(600),
    pytest.mark.skipif(postgres.available() is not None, reason="install: a PostgreSQL"),
]

DISTANCES_MS = (5, 10, 20, 30, 40)
ROUNDS = 15
WITHIN, WITHIN_BY_PROXY = 0.1, 0.2

Times = dict[str, list[list[float]]]  # ms, by protocol, round and distance


@contextlib.contextmanager
def served() -> Iterator[dict[str, Any]]:
    """The servers of the experiment, in values that can be sent."""
    with module._servers() as servers:
        databases = {name: asdict(getattr(servers, name)) for name in ("trusting", "secure")}
        yield {"addresses": servers.addresses, "ca": servers.ca, **databases}


def measured(link: packets.Link, found: dict[str, Any]) -> Times:
    """Every protocol at every distance, in random order, from the near side."""
    servers = module.Servers(
        addresses=[(link.host, port) for _, port in found["addresses"]],
        ca=found["ca"],
        trusting=postgres.Database(**found["trusting"]),
        secure=postgres.Database(**found["secure"]),
    )
    link.set_round_trip(0)
    with module._ways(servers, [[address] for address in servers.addresses]) as ways:
        for way in ways.values():
            way(0)
        times: Times = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name in ways:
                times[name].append([0.0] * len(DISTANCES_MS))
            for place in random.sample(range(len(DISTANCES_MS)), len(DISTANCES_MS)):
                link.set_round_trip(DISTANCES_MS[place])
                for name in random.sample(list(ways), len(ways)):
                    times[name][-1][place] = module._ns(ways[name](0)) * module.MS
    return times


def fitted(times: Times) -> dict[str, Estimate]:
    """As the experiment does it."""
    echoes = module._quickest(times[module.ECHO])
    return {name: module._fit(echoes, rounds)[0] for name, rounds in times.items() if name != module.ECHO}


def astray(found: dict[str, Estimate], predicted: dict[str, int], within: float) -> list[str]:
    """Protocols whose k is further from its whole number; all of them are printed."""
    print()
    for name, k in found.items():
        print(f"{name:28} {predicted[name]}  {k.median:6.3f} ({k.low:.3f} to {k.high:.3f})")
    return [name for name, k in found.items() if not abs(k.median - predicted[name]) < within]


@pytest.mark.skipif(packets.missing() is not None, reason=str(packets.missing()))
def test_round_trips_over_real_packets() -> None:
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(packets.link())
        found = stack.enter_context(link.server(served))
        for _, port in found["addresses"]:
            stack.enter_context(link.publish(port))
        times = link.call(lambda: measured(link, found))
    predicted = {each.name: len(each.round_trips) + each.new for each in module.PROTOCOLS}
    assert astray(fitted(times), predicted, WITHIN) == []


def test_round_trips_through_the_slow_network() -> None:
    record = module.round_trips(repeats=ROUNDS)
    predicted = {each.name: len(each.predicted) for each in record.set_ups}
    assert astray(record.figures(), predicted, WITHIN_BY_PROXY) == []
