"""What the experiments of notebook 05 promise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from helpers import machine
from helpers.experiments import connections as module
from helpers.experiments.connections import (
    Anatomy,
    Call,
    DatabaseConnection,
    HundredRequests,
    Phase,
    Request,
    RoundTrips,
    TlsCost,
    Waterfall,
    Way,
    WebSocket,
    anatomy,
    database_connection,
    hundred_requests,
    round_trips,
    tls_cost,
    websocket,
)
from helpers.figures import connections as figures
from helpers.figures import style
from helpers.handshakes import Step
from helpers.measure import estimate
from helpers.testbed import postgres, web
from tests import test_figures

quiet = pytest.mark.quiet  # compares times
PATIENCE_S = 40  # the machine may be busy

with_database = pytest.mark.skipif(postgres.available() is not None, reason=str(postgres.available()))
lists_connections = pytest.mark.skipif(machine.tcp_states() is not None, reason=str(machine.tcp_states()))


def seen(measured: Callable[[], Any], as_expected: Callable[[Any], bool]) -> Any:
    """The first record that is as expected, or the last one when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not as_expected(record := measured()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return record


# What a connection is

PROC_NET_TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1680 1 0000 100 0 0 10 0
   1: 0100007F:CE92 0100007F:1F90 06 00000000:00000000 03:000014E4 00000000     0        0 0 3 0000
   2: 0100007F:1F90 0100007F:CE93 08 00000000:00000001 00:00000000 00000000     0        0 1681 1 0000 20 0 0 10 -1
   3: 0100007F:CE94 0100007F:1F90 7F 00000000:00000000 00:00000000 00000000     0        0 1682 1 0000 20 0 0 10 -1
"""


def test_the_kernels_list_is_read_as_it_is_written() -> None:
    assert module.tcp_entries(PROC_NET_TCP) == {
        (0x1F90, 0): ("LISTEN", 0.0),
        (0xCE92, 0x1F90): ("TIME_WAIT", 53.48),
        (0x1F90, 0xCE93): ("CLOSE_WAIT", 0.0),
        (0xCE94, 0x1F90): ("7F", 0.0),  # a state that we have no name for
    }


@pytest.fixture(scope="module")
def body() -> Anatomy:
    """Others on the machine take kernel memory, too, or give it back: then the slope is wrong."""
    return seen(lambda: anatomy.here(most=300), lambda record: 1 < record.kernel.median < 50)


@lists_connections
def test_a_connection_goes_through_the_states_of_the_rfc(body: Anatomy) -> None:
    assert not [word for word in body.warnings if "not observed" in word]
    assert [(each.call, each.side) for each in body.steps] == [(call, side) for call, side, *_ in module.LADDER]
    assert [(each.client, each.server) for each in body.steps][-2:] == [("FIN_WAIT2", "CLOSE_WAIT"), ("TIME_WAIT", "")]
    assert 1 < body.time_wait_s <= 60 and len(set(body.four_tuple)) == 3
    assert all(each.took.low > 0 for each in body.steps)


@lists_connections
def test_an_idle_connection_costs_the_kernel_and_whoever_holds_it(body: Anatomy) -> None:
    assert 1 < body.kernel.median < 50
    assert body.as_socket.median < min(body.as_stream.median, body.with_thread.median, body.kernel.median)
    assert body.counts == (37, 75, 150, 300)


@lists_connections
def test_the_kernels_memory_follows_the_data(body: Anatomy) -> None:
    assert body.unread is not None and 1 <= body.unread.median < 2
    assert body.unread_at_receiver is not None and 0 < body.unread_at_receiver < 1


def test_a_state_that_did_not_show_is_said() -> None:
    states = [(client, server) for _, _, client, server in module.LADDER]
    assert not list(module._unlike_the_ladder(states))
    (word,) = module._unlike_the_ladder([*states[:-1], ("FIN_WAIT2", "")])
    assert word == "not observed here: TIME_WAIT and nothing after the server's close"


BODY = Anatomy(
    four_tuple=("127.0.0.1", 41000, "127.0.0.1", 8000),
    steps=tuple(
        Call(call, side, client, server, estimate([10.0 + place] * 5, "µs"))
        for place, (call, side, client, server) in enumerate(module.LADDER)
    ),
    time_wait_s=59.9,
    counts=(62, 125, 250, 500),
    kernel=estimate([7, 7.1, 7.2, 7.3, 7.4], "KiB"),
    as_socket=estimate([0.1] * 5, "KiB"),
    as_stream=estimate([5.4] * 5, "KiB"),
    with_thread=estimate([9.5] * 5, "KiB"),
    unread=estimate([1.1] * 5, "x"),
    unread_at_receiver=0.1,
    reference="a machine",
)


def test_what_is_not_there_breaks_no_picture() -> None:
    bare = replace(BODY, kernel=estimate([-1, 0, 0, 0, 1], "KiB"), unread=None, unread_at_receiver=None)
    caption = style.caption(figures.connection_memory(bare, guess=1e6))
    assert "Buffers" not in caption and "too little to be seen" in caption


# Distance


def is_as_foreseen(record: RoundTrips) -> bool:
    return all(abs(each.k.median - len(each.predicted)) < 0.5 for each in record.set_ups)


@pytest.fixture(scope="module")
def trips() -> RoundTrips:
    return seen(lambda: round_trips.here(farthest_ms=10, repeats=5), is_as_foreseen)


@quiet
@with_database
def test_every_protocol_takes_its_round_trips(trips: RoundTrips) -> None:
    assert is_as_foreseen(trips), trips.figures()
    assert not [word for word in trips.warnings if "not observed" in word]
    foreseen = {each.name: len(each.predicted) for each in trips.set_ups}
    assert foreseen["TLS 1.3, another curve"] == foreseen["TLS 1.3"] + 1
    assert foreseen["PostgreSQL, TLS and SCRAM"] == 6  # and TCP's own: seven until the first answer
    for each in trips.set_ups:
        far = [echo for echo, _ in each.points]
        assert len(far) == 5 and far == sorted(far)


@given(
    st.lists(st.floats(0.5, 50), min_size=5, max_size=5, unique_by=lambda x: round(x, 1)),
    st.floats(0, 7), st.floats(0, 20), st.integers(0, 4), st.floats(-100, 100),
)  # fmt: skip
def test_one_point_far_off_does_not_move_the_line(
    xs: list[float], slope: float, rest: float, which: int, off: float
) -> None:
    ys = [slope * x + rest for x in xs]
    assert module._line(xs, ys) == pytest.approx((slope, rest), abs=1e-6)
    ys[which] += off
    assert module._line(xs, ys)[0] == pytest.approx(slope, abs=1e-6)


def test_a_disturbed_round_does_not_move_the_fit() -> None:
    echoes = [1.0, 3.0, 5.0, 8.0, 10.0]
    quiet = [[4 * echo + 7 for echo in echoes] for _ in range(4)]
    disturbed = [quiet[0][place] + 30 * (place > 2) for place in range(5)]
    k, rest = module._fit(echoes, [*quiet, disturbed])
    assert (k.median, rest.median) == pytest.approx((4, 7)) and k.low == pytest.approx(4) == k.high
    everywhere, _ = module._fit(echoes, [disturbed] * 5)
    assert everywhere.median > 4  # what is always there is no disturbance
    assert k.low <= k.median <= k.high and len(k.samples) == 5


def test_other_messages_than_foreseen_are_said() -> None:
    usual = [Step("x", "query", 1, protocol.round_trips) for protocol in module.PROTOCOLS]
    taken = {(each.name, 0): [[step]] for each, step in zip(module.PROTOCOLS, usual, strict=True)}
    assert list(module._unforeseen(taken)) == []
    taken["TLS 1.2", 0] = [[Step("x", "tls", 1, ("a → b",))]]
    (word,) = module._unforeseen(taken)
    assert word == "not observed here: TLS 1.2 waited 1 times, not 2"


@quiet
@with_database
def test_the_picture_has_a_block_for_each_round_trip(trips: RoundTrips) -> None:
    k = trips.set_ups[-1].k
    ax = figures.round_trips(trips, guess=4, ghost=replace(trips, reference="another machine"))
    blocks = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(blocks) == sum(len(each.predicted) + each.new for each in trips.set_ups)
    assert sum(block.get_hatch() is not None for block in blocks) == sum(each.new for each in trips.set_ups)
    assert "7 round trips" in style.caption(ax) and ("wakes a little late" in style.caption(ax)) == (k.low > 6)
    assert "TLS 1.2 3, measured 1 + " in style.alt(ax)
    assert "reference run on another machine" in [text.get_text().partition(": ")[2] for text in ax.texts]


@quiet
@with_database
def test_each_line_is_drawn_from_what_is_left_at_distance_0(trips: RoundTrips) -> None:
    ax = figures.fits(trips)
    drawn = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 2]
    shown = [each for each in trips.set_ups if each.name in figures.FITTED]
    assert len(shown) == len(drawn) == 3
    for each, ((x, y), (x1, y1)) in zip(shown, drawn, strict=True):
        assert (x, y) == (0, each.rest.median) and (y1 - y) / (x1 - x) == pytest.approx(each.k.median)
        assert f"{each.name} {each.k.median:.2f} round trips" in style.alt(ax)


def test_a_server_that_is_named_is_not_enough_for_settings_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_folders", lambda: iter(()))
    monkeypatch.setenv(postgres.VARIABLE, "postgresql://learner:secret@database.example/postgres")
    (word,) = round_trips.missing()
    assert "keeps its own settings" in word and "apt install postgresql" in word and "\n" not in word
    assert database_connection.missing() == []
    monkeypatch.delenv(postgres.VARIABLE)
    assert round_trips.missing() == [postgres.available()]


@pytest.mark.parametrize("message", sorted({message for each in module.PROTOCOLS for message in each.round_trips}))
def test_every_message_fits_into_its_block(message: str) -> None:
    lines = figures._block(message).splitlines()
    assert len(lines) <= 4 and lines[0].startswith("→ ") and any(line.startswith("← ") for line in lines)
    assert all(len(line.strip("→← ")) <= figures.LINE for line in lines)
    assert "".join(line.strip("→← ") for line in lines).replace(" ", "") == message.replace(" → ", "").replace(" ", "")


# TLS


@pytest.fixture(scope="module")
def handshakes() -> TlsCost:
    return seen(lambda: tls_cost.here(repeats=11), resuming_is_cheaper)


def resuming_is_cheaper(record: TlsCost) -> bool:
    cost = {each.name: each.both.median for each in record.handshakes}
    return all(cost[f"{version}, resumed"] < 0.8 * cost[version] for version in ("TLS 1.2", "TLS 1.3"))


@quiet
def test_what_a_handshake_takes(handshakes: TlsCost) -> None:
    assert resuming_is_cheaper(handshakes), handshakes.figures()
    count = {each.name: len(each.round_trips) for each in handshakes.handshakes}
    assert count == {
        "TLS 1.3": 1, "TLS 1.3, another curve": 2, "TLS 1.3, resumed": 1, "TLS 1.3, RSA certificate": 1,
        "TLS 1.2": 2, "TLS 1.2, resumed": 1,
    }  # fmt: skip
    by_name = {each.name: each for each in handshakes.handshakes}
    assert by_name["TLS 1.3, RSA certificate"].server.median > by_name["TLS 1.3"].server.median
    assert by_name["TLS 1.3, resumed"].server_bytes < by_name["TLS 1.3"].server_bytes
    for each in handshakes.handshakes:
        parts = zip(each.client.samples, each.server.samples, strict=True)
        assert each.both.samples == pytest.approx([sum(part) for part in parts])


@quiet
def test_a_postgresql_before_18_asks_for_its_own_curve(handshakes: TlsCost) -> None:
    if handshakes.server is None:
        pytest.skip("install: a PostgreSQL with TLS of its own (apt install postgresql)")
    version = int(figures._short(handshakes.server).split()[-1])
    first, fitting = handshakes.offers
    assert len(fitting.round_trips) == 1
    assert len(first.round_trips) == (2 if version < 18 else 1)
    assert ("HelloRetryRequest" in first.round_trips[0]) == (version < 18)


def test_without_such_a_postgresql_the_rest_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "installations", list)
    record = tls_cost.here(repeats=5)
    assert record.server is None and record.offers == ()
    assert any("apt install postgresql" in word for word in record.warnings)
    axes = figures.tls_cost(record, ghost=replace(record, reference="another machine"))
    assert "HelloRetryRequest" in "".join(text.get_text().replace("\n", "") for text in axes[0].texts)
    assert "1 round trip" in style.caption(axes[0]) and "PostgreSQL" not in style.alt(axes[0])


# One hundred requests


@given(st.integers(5, 200), st.integers(5, 10), st.floats(0.01, 100))
def test_every_part_of_an_even_run_tells_the_whole(requests: int, parts: int, each_ms: float) -> None:
    run = [Request(0, place * each_ms, place * each_ms, (place + 1) * each_ms) for place in range(requests)]
    totals = module._totals(run, min(parts, requests))
    assert len(totals) == min(parts, requests)
    assert totals == pytest.approx([requests * each_ms] * len(totals))


def test_a_total_is_the_whole_runs_not_a_parts() -> None:
    run = [Request(0, 0, 0, 10), Request(0, 10, 10, 20), Request(0, 20, 20, 50), Request(0, 50, 50, 80)]
    assert module._totals(run, 1) == [80] and module._totals(run, 2) == [40, 120]


def by_protocol(record: HundredRequests) -> dict[str, Waterfall]:
    return {each.protocol: each for each in record.waterfalls}


@quiet
def test_each_protocol_needs_its_round_trips() -> None:
    def as_predicted(record: HundredRequests) -> bool:
        return all(
            0.95 * each.ideal <= each.round_trips.median <= 1.15 * each.ideal + 1.5
            for each in record.waterfalls
            if each.round_trips is not None
        )

    record = seen(lambda: hundred_requests.here(10, requests=24), as_predicted)
    assert as_predicted(record), record.figures()
    assert [each.ideal for each in record.waterfalls] == [24, 24, 4, 1]
    assert len({each.connection for each in by_protocol(record)[module.SIX].requests}) == 6
    assert [each.unmeasured for each in record.waterfalls] == [24, 1, 1, 1]
    assert record.gain.median > 5 and record.gain_with_syn > record.gain.median / 2
    assert not [word for word in record.warnings if "not observed" in word]


@quiet
def test_connections_are_used_as_each_protocol_uses_them() -> None:
    record = hundred_requests.here(0, requests=30)
    used = {name: len({each.connection for each in fall.requests}) for name, fall in by_protocol(record).items()}
    assert 1 < used.pop(module.SIX) <= 6  # without any distance one may have done it all before the last one begins
    assert used == {module.HTTP10: 30, module.KEEP_ALIVE: 1, module.HTTP2: 1}
    for fall in record.waterfalls:
        assert len(fall.requests) == 30 and fall.round_trips is None and fall.unmeasured == 0
        assert all(0 <= each.begin <= each.connected < each.answered for each in fall.requests)
        begins = [each.begin for each in fall.requests]
        assert begins == sorted(begins)
    alone = by_protocol(record)[module.HTTP10].requests
    assert all(before.answered <= after.begin for before, after in pairwise(alone))
    assert all(each.connected > each.begin for each in alone)  # without a proxy TCP's own is in the time
    style.show(figures.hundred_requests(record, guess=0.01))


def waterfall(protocol: str, each_ms: float, at_once: int, unmeasured: int) -> Waterfall:
    run = [Request(0, n // at_once * each_ms, n // at_once * each_ms, (n // at_once + 1) * each_ms) for n in range(12)]
    total = estimate([run[-1].answered] * 5, "ms")
    return Waterfall(protocol, tuple(run), total, total.scaled(1 / 50, "round trips"), 12 // at_once, unmeasured)


REQUESTS = HundredRequests(
    round_trip_ms=50,
    measured_round_trip=estimate([50.0] * 5, "ms"),
    waterfalls=(
        waterfall(module.HTTP10, 52, 1, 12),
        waterfall(module.KEEP_ALIVE, 51, 1, 1),
        waterfall(module.SIX, 51, 6, 1),
        waterfall(module.HTTP2, 30, 12, 1),
    ),
    gain=estimate([20.8] * 5, "x"),
    gain_with_syn=15.3,
    reference="a machine",
)


def test_the_syns_are_added_in_words_alone() -> None:
    caption = style.caption(figures.hundred_requests(REQUESTS))
    assert "20.8x" in caption and "With them it would be 15.3x" in caption and "computing" not in caption


def test_a_guess_of_the_ratio_with_the_syns_is_right() -> None:
    ax = figures.hundred_requests(REQUESTS, guess=REQUESTS.gain_with_syn)
    (mark,) = [line for line in ax.lines if line.get_marker() == "D"]
    last = REQUESTS.waterfalls[-1]
    with_syn = last.total.median + last.unmeasured * REQUESTS.measured_round_trip.median
    assert mark.get_xdata()[0] == pytest.approx(with_syn, rel=0.01)


def test_what_the_syns_add_is_drawn_where_it_can_be_seen() -> None:
    slow = replace(REQUESTS, measured_round_trip=estimate([5.0] * 5, "ms"))
    for record, count in ((REQUESTS, 4), (slow, 1)):
        assert sum(bool(patch.get_hatch()) for patch in figures.hundred_requests(record).patches) == count
    assert "624 ms (1.22 s with the SYNs)" in [text.get_text() for text in figures.hundred_requests(REQUESTS).texts]


# A database connection


def agrees_with_psycopg(record: DatabaseConnection) -> bool:
    return 0.85 < record.against_psycopg.median < 1.15


@quiet
@with_database
@pytest.mark.parametrize(
    ("secured", "expected"), [(True, {"tls": 2, "authentication": 3}), (False, {"authentication": 1})]
)
def test_a_connection_by_phase(secured: bool, expected: dict[str, int]) -> None:
    k = sum(expected.values())

    def is_right(record: DatabaseConnection) -> bool:
        return agrees_with_psycopg(record) and abs(record.k.median - k) < 0.5

    record = seen(lambda: database_connection.here(10, tls=secured, scram=secured, repeats=5), is_right)
    assert is_right(record), (record.against_psycopg, record.k)
    counted = {phase.name: len(phase.round_trips) for phase in record.phases}
    assert counted == {"tcp": 1, "session": 0, "query": 1} | expected
    before = [phase.time.samples for phase in record.phases if phase.name != "query"]
    assert [sum(each) for each in zip(*before, strict=True)] == pytest.approx(list(record.connected.samples))
    for whole, part in ((record.in_all, record.connected), (record.tcp, record.phases[0].time)):
        assert whole.median - part.median == pytest.approx(record.echo.median)
        assert whole.warnings == (module.SYN_ADDED,)
    assert ("tls" in record.figures()) == secured
    far = record.distance_for(100)
    assert record.computing.median + (record.k.median + 1) * far == pytest.approx(100)
    ax = figures.database_connection(record, guess=30, ghost=replace(record, reference="another machine"))
    assert "45 to 110 ms" in style.alt(ax) and f"to {record.distance_for(110):.1f} ms away" in style.caption(ax)


def test_the_last_flight_is_parted_by_the_measured_round_trip() -> None:
    steps = [
        Step("TCP", "tcp", 1, ("SYN → SYN, ACK",)),
        Step("start-up", "authentication", 100, ("a → b",)),
        Step("proof", "authentication", 20, ()),
        Step("authentication", "authentication", 130, ("c → d",)),
        Step("session", "session", 5, ()),
    ]
    found = module._phases(steps, echo_ns=90)
    assert {name: spent for name, (spent, _) in found.items()} == {"tcp": 1, "authentication": 210, "session": 45}
    assert found["authentication"][1] == ("a → b", "c → d")
    assert module._connected_ns([*steps, Step("query", "query", 1000, ("q → r",))]) == 256


def test_the_article_may_be_right_nowhere() -> None:
    slow = estimate([500.0] * 5, "ms")
    phases = tuple(Phase(name, ("a → b",), slow) for name in ("tcp", "authentication", "session", "query"))
    record = DatabaseConnection(
        server="PostgreSQL 18", round_trip_ms=0.0, tls=False, scram=False, echo=slow, phases=phases, connected=slow,
        tcp=slow, in_all=slow, k=estimate([1.0] * 5, "round trips"), computing=slow, psycopg=slow,
        against_psycopg=estimate([1.0] * 5, "x"),
    )  # fmt: skip
    ax = figures.database_connection(record)
    assert "right at no distance" in style.caption(ax) and "no distance added" in ax.get_title(loc="left")
    assert style.caption(ax).startswith("PostgreSQL 18: ") and "second round trip" not in style.caption(ax)
    retried = Phase("tls", ("SSLRequest → S", "ClientHello → HelloRetryRequest", "ClientHello → ServerHello"), slow)
    again = replace(
        record, phases=(phases[0], retried, *phases[1:]), tls=True, server=f"PostgreSQL 18, {postgres.WHEEL}"
    )
    caption = style.caption(figures.database_connection(again))
    assert "TLS took a second round trip here" in caption and "terminator" in caption


def test_the_wheels_postgresql_has_no_tls_as_the_caption_says() -> None:
    assert not [each for each in postgres.installations() if each.is_wheel and each.has_tls]


# WebSocket


@pytest.fixture(scope="module")
def chat() -> WebSocket:
    def as_expected(record: WebSocket) -> bool:
        polling, long_polling, pushed = (way.delay.median for way in record.ways)
        one_way = record.measured_round_trip.median / 2
        return (
            0.25 < polling / record.poll_ms < 0.75
            and max(long_polling, pushed) < 3 * one_way
            and abs(record.upgrade_round_trips.median - 1) < 0.3
        )

    return seen(lambda: websocket.here(10, poll_ms=200, every_ms=40, messages=20, repeats=5), as_expected)


@quiet
def test_a_polled_message_waits_half_a_period_and_a_pushed_one_half_a_round_trip(chat: WebSocket) -> None:
    polling, long_polling, pushed = (way.delay.median for way in chat.ways)
    assert 0.25 < polling / chat.poll_ms < 0.75
    one_way = chat.measured_round_trip.median / 2
    assert 0.8 * one_way < pushed < 3 * one_way and 0.8 * one_way < long_polling < 3 * one_way
    assert not [word for word in chat.warnings if "not observed" in word]


@quiet
def test_every_message_came_by_every_way_for_its_price(chat: WebSocket) -> None:
    polling, long_polling, pushed = chat.ways
    assert [len(way.delay.samples) for way in chat.ways] == [20, 20, 20]
    assert 2 <= polling.requests < long_polling.requests <= 20 and pushed.requests == 1
    assert pushed.sent < polling.sent < long_polling.sent and pushed.received < long_polling.received
    assert chat.empty_poll > 50 and chat.upgrade_bytes > 200


@quiet
def test_the_upgrade_takes_one_round_trip(chat: WebSocket) -> None:
    assert chat.upgrade_round_trips.median == pytest.approx(1, abs=0.3)


def test_what_was_not_earlier_is_said() -> None:
    (word,) = module._unlike_pushing([way("polling", 1.0), way("long polling", 1.0), way("WebSocket", 1.0)])
    assert "not observed" in word
    assert not list(module._unlike_pushing([way("polling", 9.0), way("long polling", 1.0), way("WebSocket", 1.0)]))


def way(name: str, delay_ms: float) -> Way:
    delays = [delay_ms * (1 + place / 100) for place in range(9)]
    return Way(name, estimate(delays, "ms"), 1 if name == "WebSocket" else 9, 20.0, 120.0)


CHAT = WebSocket(
    round_trip_ms=10,
    measured_round_trip=estimate([10.0] * 5, "ms"),
    every_ms=250.0,
    poll_ms=1000.0,
    ways=(way("polling", 500.0), way("long polling", 5.5), way("WebSocket", 5.1)),
    empty_poll=100,
    upgrade=estimate([10.0] * 5, "ms"),
    upgrade_round_trips=estimate([1.0] * 5, "x"),
    upgrade_bytes=300,
    reference="a machine",
)


def test_silence_costs_what_the_polls_cost() -> None:
    caption = style.caption(figures.websocket(CHAT))
    assert "60 requests a minute, 5.86 KiB" in caption
    quicker = style.caption(figures.websocket(replace(CHAT, poll_ms=500.0), guess=3.0))
    assert "120 requests a minute, 11.7 KiB" in quicker


@quiet
def test_bytes_are_counted_beyond_the_message_itself(chat: WebSocket) -> None:
    """By WebSocket they are a frame's header and a share of the upgrade; by polling request, heads and brackets."""
    count = len(chat.ways[-1].delay.samples)
    polling, long_polling, pushed = (figures._beyond(chat, way) for way in chat.ways)
    assert pushed == pytest.approx(figures.FRAME_HEAD + chat.upgrade_bytes / count)
    envelope = json.dumps({"number": 10, "published_ns": time.perf_counter_ns(), "text": web.TEXT})
    assert chat.ways[-1].sent + chat.ways[-1].received - pushed == pytest.approx(len(envelope), abs=1.5)
    assert pushed < long_polling and 0 < polling < long_polling
    assert "1 request,\n" in figures._paid(chat, chat.ways[-1])


# The pictures


def test_who_listens_goes_on_listening() -> None:
    ax = figures.ladder(BODY)
    bars = {text.get_text(): patch for text in ax.texts for patch in ax.patches
            if patch.contains_point(ax.transData.transform(text.get_position()))}  # fmt: skip
    listening, closing = bars["LISTEN"], bars["CLOSE_WAIT"]
    assert listening.get_width() < closing.get_width()
    assert listening.get_y() + listening.get_height() > closing.get_y() + closing.get_height()


PICTURES = {
    "ladder": lambda: figures.ladder(BODY),
    "memory": lambda: figures.connection_memory(BODY, guess=64, ghost=BODY),
    "waterfalls": lambda: figures.hundred_requests(REQUESTS, guess=10, ghost=REQUESTS),
    "messages": lambda: figures.websocket(CHAT, guess=100, ghost=CHAT),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_hold_together(name: str) -> None:
    axes: Axes = PICTURES[name]()
    test_figures.test_no_word_is_clipped(axes)
    test_figures.test_it_reads_from_the_back_of_a_classroom(axes)
    test_figures.test_axes_and_titles_are_named(axes)
    test_figures.test_alt_and_caption_come_from_the_data(axes)
    test_figures.test_the_reference_run_is_labelled(axes)
