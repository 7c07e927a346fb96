"""Distances: the slow network's, in user space, and those of real packets that are delayed."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable
from statistics import linear_regression, median

import pytest

from helpers.measure import Estimate, estimate
from helpers.testbed import echo
from helpers.testbed.slow_network import slow_network
from tests.bench import packets

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

Address = tuple[str, int]

DISTANCES_MS = (1, 2, 5, 10, 20, 50)
ECHOES = 25
CONNECTS = 5
ROUNDS = 7
WITHIN_MS = 0.5
K_WITHIN = 0.1


def connected(address: Address) -> socket.socket:
    sock = socket.create_connection(address, timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def echoed_ms(sock: socket.socket) -> float:
    start = time.perf_counter()
    sock.sendall(b"!")
    assert sock.recv(1) == b"!"
    return (time.perf_counter() - start) * 1000


def rested(sock: socket.socket, milliseconds: float) -> float:
    time.sleep(milliseconds / 1000)
    return echoed_ms(sock)


def connected_ms(address: Address) -> float:
    start = time.perf_counter()
    with socket.create_connection(address, timeout=20):
        return (time.perf_counter() - start) * 1000


def test_the_added_time_is_right() -> None:
    """Medians of echoes through the slow network and directly, in turn; one error per round and distance.

    The direct one comes after a pause of the same length: who has slept that long is woken late, over any network.
    """
    errors: dict[float, list[float]] = {distance: [] for distance in DISTANCES_MS}
    with echo.serving() as server, connected(server) as direct, contextlib.ExitStack() as networks:
        through = {far: connected(networks.enter_context(slow_network(server, far))) for far in DISTANCES_MS}
        for _ in range(ROUNDS):
            for distance in random.sample(DISTANCES_MS, len(DISTANCES_MS)):
                pairs = [(rested(direct, distance), echoed_ms(through[distance])) for _ in range(ECHOES)]
                added = median(slow for _, slow in pairs) - median(fast for fast, _ in pairs)
                errors[distance].append(added - distance)
        for client in through.values():
            client.close()
    found = {distance: estimate(samples, "ms") for distance, samples in errors.items()}
    print()
    for distance, error in found.items():
        print(
            f"{distance:3} ms: the added time is wrong by {error.median:+.3f} ms ({error.low:.3f} to {error.high:.3f})"
        )
    assert all(-WITHIN_MS < error.median < WITHIN_MS for error in found.values())


def round_trips(address: Callable[[float], Address]) -> Estimate:
    """k of TCP's `connect`: the slope of its time over that of an echo at the same distance, one per round."""
    slopes = []
    for _ in range(ROUNDS):
        echoes, connects = [], []
        for distance in random.sample(DISTANCES_MS, len(DISTANCES_MS)):
            there = address(distance)
            with connected(there) as client:
                pairs = [(echoed_ms(client), connected_ms(there)) for _ in range(CONNECTS)]
            echoes.append(median(one for one, _ in pairs))
            connects.append(median(other for _, other in pairs))
        slopes.append(linear_regression(echoes, connects).slope)
    return estimate(slopes, "round trips")


def test_over_real_packets_a_connection_costs_one_round_trip() -> None:
    if reason := packets.missing():
        pytest.skip(reason)
    with packets.link() as link, link.server(echo.serving) as (_, port), link.publish(port):

        def at(distance: float) -> Address:
            link.set_round_trip(distance)
            return link.host, port

        k = estimate(link.call(lambda: round_trips(at).samples), "round trips")
    print(f"\nTCP over delayed packets: {k}")
    assert abs(k.median - 1) <= K_WITHIN


def test_through_the_slow_network_it_costs_none() -> None:
    """The kernel answers the SYN: what notebook 05 says of its figures."""
    with echo.serving() as server, contextlib.ExitStack() as networks:
        addresses = {far: networks.enter_context(slow_network(server, far)) for far in DISTANCES_MS}
        k = round_trips(addresses.__getitem__)
    print(f"\nTCP through the slow network: {k}")
    assert abs(k.median) <= K_WITHIN
