"""What the experiments of notebook 01 promise."""

from __future__ import annotations

import gc
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import channels, claims, machine, specimens
from helpers.experiments import processes_and_threads as module
from helpers.experiments.processes_and_threads import (
    KIB,
    CopyOnWrite,
    CostOfOneMore,
    Crash,
    MemoryMap,
    MessageCost,
    StartCost,
    copy_on_write,
    cost_of_one_more,
    crash,
    lost_updates,
    memory_map,
    message_cost,
    race,
    start_cost,
)
from helpers.figures import processes_and_threads as figures
from helpers.figures import style
from helpers.measure import estimate, in_fresh_process
from tests.test_figures import shipped

ROOT = Path(__file__).parent.parent


def quietly(done: int, total: int) -> None:
    """A listener for progress that shows nothing."""


def run_python(code: str) -> str:
    """What a program prints that runs in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def open_files() -> set[str]:
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


# The house and its rooms

reads_maps = pytest.mark.skipif(machine.memory_maps() is not None, reason="needs /proc/PID/smaps")


@pytest.fixture(scope="module")
def map_of_eight() -> MemoryMap:
    return memory_map.here(most_threads=8, repeats=5)


@reads_maps
def test_the_rooms_add_up_to_the_house(map_of_eight: MemoryMap) -> None:
    assert [household.threads for household in map_of_eight.households] == [1, 4, 8]
    for household in map_of_eight.households:
        parts = household.groups.values()
        assert sum(each.virtual for each in parts) == pytest.approx(household.virtual, rel=0.01)
        assert sum(each.resident for each in parts) == pytest.approx(household.resident, rel=0.01)
        assert sum(each.private + each.shared for each in parts) == pytest.approx(household.resident, rel=0.01)


@reads_maps
def test_only_the_stacks_multiply(map_of_eight: MemoryMap) -> None:
    assert not [word for word in map_of_eight.warnings if "stacks" in word]
    one, _, eight = (household.groups for household in map_of_eight.households)
    for group in ("code", "data", "shared libraries"):
        assert eight[group].resident == pytest.approx(one[group].resident, rel=0.2)
    added = eight["stacks"].virtual - one["stacks"].virtual
    assert added == pytest.approx(7 * machine._stack(), rel=0.05)
    assert 7 * 4 * KIB <= eight["stacks"].resident - one["stacks"].resident < added / 20


@reads_maps
def test_storeys_are_the_same_house_from_bottom_to_top(map_of_eight: MemoryMap) -> None:
    house, storeys = map_of_eight.households[0], map_of_eight.storeys
    assert all(below.group != above.group for below, above in pairwise(storeys))
    assert storeys[-1].group in ("stacks", "other") and {storey.group for storey in storeys} <= set(house.groups)
    for group, takes in house.groups.items():
        assert sum(storey.takes.resident for storey in storeys if storey.group == group) == takes.resident


@reads_maps
def test_hidden_stacks_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.memory, "stack_pointers", lambda pid: [])
    record = memory_map.here(most_threads=2, repeats=5)
    assert any("2 of the threads" in word for word in record.warnings)


# What one more costs


@pytest.fixture(scope="module")
def costs() -> dict[str, CostOfOneMore]:
    most = {"threads": 200, "tasks": 2000, "forked": 32, "spawned": 16}
    return {of: cost_of_one_more.here(of, most=count, repeats=5) for of, count in most.items()}


@reads_maps
def test_a_task_costs_less_than_a_thread_and_a_thread_less_than_a_process(costs: dict[str, CostOfOneMore]) -> None:
    own = [costs[of].unique.median for of in ("tasks", "threads", "forked", "spawned")]
    assert own == sorted(own) and own[1] > 3 * own[0] and own[3] > 3 * own[2]


@reads_maps
def test_a_thread_reserves_far_more_than_it_takes(costs: dict[str, CostOfOneMore]) -> None:
    thread = costs["threads"]
    assert thread.virtual.median > 0.9 * machine._stack() / KIB > 20 * thread.resident.median
    assert thread.unique.median == pytest.approx(thread.resident.median, rel=0.1)
    assert thread.kernel is not None and thread.kernel.median > 2


@reads_maps
def test_a_forked_child_shares_most_of_its_memory(costs: dict[str, CostOfOneMore]) -> None:
    child = costs["forked"]
    assert child.unique.median < child.resident.median / 3
    assert child.unique.median <= child.proportional.median < child.resident.median < child.virtual.median


@reads_maps
def test_the_kernel_knows_nothing_of_tasks(costs: dict[str, CostOfOneMore]) -> None:
    assert costs["tasks"].kernel is None and "kernel" not in costs["tasks"].figures()


STEPS = """
import os, sys
print(flush=True)
held = []
for line in sys.stdin:
    held += [bytearray(b"x") * 2**18 for _ in range(int(line) - len(held))]
    print(len(held), os.getpid(), flush=True)
"""


@reads_maps
def test_a_known_cost_is_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specimens, "START", STEPS)
    slopes = module._slopes("steps", [8, 16, 32, 64])
    for name in ("virtual", "resident", "proportional", "unique"):
        assert slopes[name] == pytest.approx(256, rel=0.05)


@reads_maps
def test_what_takes_too_long_is_cut_short_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.GROWING_S, "threads", 1e-6)
    record = cost_of_one_more.here("threads", most=1000, repeats=5)
    assert record.counts == (1, 2) and any("from 1,000 to 2" in word for word in record.warnings)


@reads_maps
def test_what_the_system_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Specimen, "ask", lambda self, number: [min(number, 12), self.pid])
    count, reason = module._affordable("threads", 100, 10)
    assert count == 12 and reason is not None and "the system starts no more" in reason
    monkeypatch.setattr(module.Specimen, "ask", lambda self, number: [1, self.pid])
    with pytest.raises(machine.TooSmall, match="no more than 1"):
        module._affordable("threads", 100, 10)
    with pytest.raises(machine.TooSmall, match="no more than 1"):
        module._slopes("threads", [1, 2])


@reads_maps
@pytest.mark.parametrize("name", ["process-memory", "thread-memory-virtual", "thread-memory-resident"])
def test_its_claims_have_their_figure(name: str, costs: dict[str, CostOfOneMore]) -> None:
    said = claims.claim(name)
    assert claims.verdict(said, costs[said.where["of"]].figures()[said.figure]).word != "depends"


# Starting one


@pytest.fixture(scope="module")
def starts() -> dict[int, StartCost]:
    """Two runs, by MiB touched before."""
    return {mib: start_cost.run(touched_mib=mib, repeats=5, batch_ms=2, on_progress=quietly) for mib in (0, 256)}


def test_the_more_is_made_the_longer_it_takes(starts: dict[int, StartCost]) -> None:
    cost = {name: figure.median for name, figure in starts[0].cost.items()}
    assert cost["task"] < cost["thread"] < cost["fork"] < cost["multiprocessing spawn"]
    assert cost["posix_spawn"] < cost["new Python"] < cost["multiprocessing spawn"]


def test_every_way_to_start_is_there_or_accounted_for(starts: dict[int, StartCost]) -> None:
    record = starts[0]
    assert sorted([*record.cost, *record.missing]) == sorted(module.STARTS)
    assert all(f"no {name}: {why}" in record.warnings for name, why in record.missing.items())


def test_a_fork_pays_for_memory_and_a_spawn_does_not(starts: dict[int, StartCost]) -> None:
    lean, fat = (starts[mib].cost for mib in (0, 256))
    grown = {name: fat[name].median / lean[name].median for name in ("fork", "posix_spawn", "new Python")}
    assert grown["fork"] > 1.5 * max(grown["posix_spawn"], grown["new Python"])


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such program" in str(module._program(None))
    assert "cannot start processes by magic" in str(module._multiprocessing("magic"))
    monkeypatch.setattr("importlib.import_module", lambda name: exec("raise ImportError"))
    assert "has none" in str(module._subinterpreter())


def test_the_public_module_for_subinterpreters_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of Python 3.14."""
    done: list[str] = []
    one = SimpleNamespace(exec=done.append, close=lambda: done.append("closed"))
    monkeypatch.setitem(sys.modules, "concurrent.interpreters", SimpleNamespace(create=lambda: one))
    start = module._subinterpreter()
    assert callable(start) and start(2) > 0
    assert done == ["pass", "closed"] * 2


@pytest.mark.beside_others
def test_starting_leaves_nothing_behind() -> None:
    """Neither multiprocessing's fork server nor its resource tracker."""
    code = (
        "import psutil; from helpers.experiments.processes_and_threads import start_cost; "
        "start_cost.here(repeats=5, batch_ms=1); print(psutil.Process().children(recursive=True))"
    )
    assert run_python(code) == "[]"


def test_touched_memory_is_there() -> None:
    code = (
        "import psutil; from helpers.experiments.processes_and_threads import _touched; me = psutil.Process(); "
        "before = me.memory_info().rss; kept = _touched(32); print((me.memory_info().rss - before) / 2**20)"
    )
    assert float(run_python(code)) == pytest.approx(32, abs=1)


# What they share


@pytest.fixture(scope="module")
def inheritance() -> CopyOnWrite:
    return copy_on_write.here(mib=16, repeats=5)


@reads_maps
def test_reading_bytes_copies_nothing_and_writing_them_every_page(inheritance: CopyOnWrite) -> None:
    read, written = (inheritance.copied[f"{way} bytes"] for way in ("reading", "writing"))
    assert [step.median for step in read] == pytest.approx([0.0] * 9, abs=1)
    assert [step.median for step in written] == pytest.approx(list(inheritance.touched), abs=1)
    assert inheritance.page.median > 0


@reads_maps
def test_reading_objects_copies_them(inheritance: CopyOnWrite) -> None:
    steps = [step.median for step in inheritance.copied["reading objects"]]
    assert steps == sorted(steps) and steps[-1] > 90
    assert not [word for word in inheritance.warnings if "not observed" in word]


@reads_maps
def test_what_the_child_copied_is_what_both_have_more(inheritance: CopyOnWrite) -> None:
    """PSS adds up over processes, so it is the second witness."""
    before, after = (figure.median for figure in inheritance.together)
    share = inheritance.copied["reading objects"][-1].median / 100
    assert after - before == pytest.approx(share * inheritance.mib, rel=0.1)


def test_where_nothing_is_copied_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = module._Inheritance([0.5 * step for step in range(9)], 2**20, 2**20, 1000)
    monkeypatch.setattr(module, "_inheritance", lambda way, size: seen)
    record = copy_on_write.function(mib=4, repeats=5)
    assert any("not observed here" in word for word in record.warnings)
    assert record.figures()["copied by reading objects"].median == 4


@pytest.mark.beside_others
def test_the_memory_figures_say_what_they_show() -> None:
    map_of_eight, inheritance = shipped(memory_map.name), shipped(copy_on_write.name)
    rows = [shipped(cost_of_one_more.name, of=of) for of in ("tasks", "threads", "forked", "spawned")]
    for axes, words in (
        (figures.memory_map(map_of_eight, guess=30, ghost=map_of_eight), "With 1 thread"),
        (figures.cost_of_one_more(rows, guess=1500, ghosts=rows), style.bytes_text(rows[0].unique.median * KIB)),
        (figures.copy_on_write(inheritance, guess=10, ghost=inheritance), f"inherits {inheritance.mib} MiB"),
    ):
        style.show(axes)
        assert words in style.caption(axes) and "nan" not in style.caption(axes) and len(style.alt(axes)) > 40


# When one crashes


EXPECTED = {  # how many of the three others answer, and how the process ended
    ("segmentation fault", "processes"): (3, "killed by SIGSEGV"),
    ("segmentation fault", "threads"): (0, "killed by SIGSEGV"),
    ("os._exit", "processes"): (3, f"exit code {module.EXIT_CODE}"),
    ("os._exit", "threads"): (0, f"exit code {module.EXIT_CODE}"),
    ("unhandled exception", "processes"): (3, "exit code 1"),
    ("unhandled exception", "threads"): (3, "exit code 0"),
}


@pytest.fixture(scope="module")
def crashes() -> Crash:
    return crash.run(trials=5, on_progress=quietly)


@pytest.mark.parametrize(("what", "where"), EXPECTED)
def test_who_survives(what: str, where: str, crashes: Crash) -> None:
    case = crashes.case(what, where)
    answered, ended = EXPECTED[what, where]
    assert case.contexts == 4 and set(case.answered) == {answered} and set(case.ended) == {ended}


def test_the_shares_are_of_segmentation_faults_alone(crashes: Crash) -> None:
    assert len(crashes.cases) == len(EXPECTED)
    assert {figure.median for figure in crashes.figures().values()} == {1.0}
    assert all(len(figure.samples) == 5 for figure in crashes.figures().values())


@pytest.mark.beside_others
@pytest.mark.parametrize(("what", "where"), EXPECTED)
def test_a_crash_is_quiet_and_leaves_nothing(what: str, where: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = open_files()
    assert module._trial(what, where) == EXPECTED[what, where]
    assert capfd.readouterr().err == ""
    assert open_files() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_who_does_not_answer_is_not_counted() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(0.05)
        assert not module._answers(ours)  # silent
        theirs.close()
        assert not module._answers(ours)  # gone


# How they talk

each_channel = pytest.mark.parametrize("over", channels.CHANNELS)


@pytest.fixture(scope="module")
def talks() -> dict[str, MessageCost]:
    return {over: message_cost.run(over=over, largest_kib=1, on_progress=quietly) for over in channels.CHANNELS}


@each_channel
def test_a_message_takes_time_and_moves_bytes_between_processes_alone(over: str, talks: dict[str, MessageCost]) -> None:
    record = talks[over]
    assert record.sizes == (64, 256, 1024) and len(record.round_trip) == 3
    assert all(figure.low > 0 for figure in record.round_trip)
    assert (record.throughput is None) == (record.between == "threads") == (over in ("thread-queue", "variable"))
    assert ("MB/s" in {figure.unit for figure in record.figures().values()}) == (record.between == "processes")


@each_channel
@settings(max_examples=8)
@given(size=st.integers(1, 300_000), count=st.integers(1, 20))
def test_messages_of_any_size_arrive_complete_and_in_order(over: str, size: int, count: int) -> None:
    with module._conversation(over, (None, None), (size,)) as talk:
        talk.verify(size)
        talk.trip(size, count)
        if over not in channels.BETWEEN_THREADS:
            talk.pour(size, count)
        talk.verify(size)


@pytest.mark.parametrize("over", ["pipe", "shared-memory", "variable"])
def test_what_arrives_changed_is_noticed(over: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = {"pipe": channels.Stream, "shared-memory": channels.Shared, "variable": channels.Variable}[over]
    receive = kind.receive
    monkeypatch.setattr(kind, "receive", lambda self: bytes(receive(self))[::-1])
    with module._conversation(over, (None, None), (64,)) as talk:
        with pytest.raises(RuntimeError, match="changed or out of order"):
            talk.verify(64)
        monkeypatch.setattr(kind, "receive", lambda self: bytes(len(receive(self))))
        with pytest.raises(RuntimeError, match="changed"):
            talk.trip(64, 1)


def test_messages_out_of_order_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last two change places on the way."""
    waiting: list[bytes] = []

    receive: Callable[[channels.Stream], bytes] = channels.Stream.receive

    def receive_later(self: channels.Stream) -> bytes:
        if not waiting:
            waiting.extend(bytes(receive(self)) for _ in range(channels.SLOTS + 1))
            waiting[-1], waiting[-2] = waiting[-2], waiting[-1]
        return waiting.pop(0)

    monkeypatch.setattr(channels.Stream, "receive", receive_later)
    with (
        module._conversation("pipe", (None, None), (64,)) as talk,
        pytest.raises(RuntimeError, match="out of order"),
    ):
        talk.verify(64)


@pytest.mark.beside_others
@each_channel
def test_both_ends_are_closed(over: str) -> None:
    with module._conversation(over, (None, None), (64,)):  # what multiprocessing opens once and keeps
        pass
    before = open_files()
    with module._conversation(over, (None, None), (64, 4096)) as talk:
        talk.trip(4096, 2)
    del talk  # whose queues close when they go
    assert open_files() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_stream_without_partner_says_so() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"half")
    os.close(write_end)
    with pytest.raises(RuntimeError, match="gone"):
        channels.Stream(read_end, read_end, 8).receive()
    os.close(read_end)


def test_a_round_trip_on_one_core_is_two_switches() -> None:
    core, trips = machine.cores()[0], 500
    if machine.pinning():
        pytest.skip("this system cannot pin")

    def switches() -> int:
        with module._conversation("pipe", (core, core), (64,)) as talk:
            talk.trip(64, trips)
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_nvcsw + usage.ru_nivcsw for usage in both)

    assert in_fresh_process(switches) >= 0.98 * 2 * trips


def test_size_costs_where_bytes_move() -> None:
    def growth(over: str) -> float:
        with module._conversation(over, (None, None), (64, module.MIB)) as talk:
            small, large = (min(talk.trip(size, 20) for _ in range(5)) for size in (64, module.MIB))
        return large / small

    assert growth("pipe") > 2 * growth("thread-queue")


@given(st.integers(64, 1 << 22))
def test_sizes_climb_to_the_largest(largest: int) -> None:
    sizes = module._message_sizes(largest)
    assert sizes[0] == 64 and sizes[-1] == largest
    assert all(small < large <= 4 * small for small, large in pairwise(sizes))


@given(st.lists(st.floats(0, 6), min_size=1, max_size=8), st.floats(0.01, 1))
def test_names_keep_apart_and_in_order(heights: list[float], gap: float) -> None:
    moved = figures._apart(heights, gap)
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    assert all(moved[above] - moved[below] >= gap - 1e-9 for below, above in pairwise(order))
    assert sum(moved) == pytest.approx(sum(heights))


# Lost updates


@given(way=st.sampled_from(list(module.WAYS)), updates=st.integers(0, 1000))
def test_alone_nothing_is_lost(way: str, updates: int) -> None:
    counter = module.Counter()
    module.WAYS[way](counter, threading.Lock(), updates)
    assert counter.value == updates


def test_a_race_loses_updates_in_steps_and_never_under_a_lock() -> None:
    races = {way: race(way, 4, 0.3) for way in ("in steps", "locked")}
    assert races["in steps"].counted < races["in steps"].expected
    assert races["locked"].counted == races["locked"].expected > 0
    assert all(each.seconds >= 0.3 for each in races.values())


def test_losses_are_recorded_and_their_absence_is_said() -> None:
    record = lost_updates.here(seconds_each=0.05, repeats=5)
    assert record.lost["in steps"].median > 0
    assert not any(record.lost["locked"].samples)
    said = [word for word in record.warnings if word.startswith("one line: no update was lost")]
    assert len(said) == (not any(record.lost["one line"].samples))
    assert record.update["own lock"].median > record.update["no lock"].median > 0


@pytest.mark.beside_others
def test_a_lock_that_does_not_lock_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.WAYS, "locked", module._in_steps)
    with pytest.raises(RuntimeError, match="do not lock"):
        lost_updates.here(threads=4, seconds_each=0.05, repeats=5)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([0.0] * 5, "none lost"),
        ([0.0] * 4 + [0.5], "up to 0.5 % lost"),
        ([8.32] * 5, "8.3 % lost"),
        ([99.6] * 5, "100 % lost"),
    ],
)
def test_losses_in_words(samples: list[float], words: str) -> None:
    assert figures._lost_words(estimate(samples, "%")) == words


@pytest.mark.beside_others
def test_the_figures_say_what_they_show() -> None:
    some = [shipped(message_cost.name, over=over) for over in ("pipe", "shared-memory", "variable")]
    small, large = shipped(start_cost.name, touched_mib=0), shipped(start_cost.name, touched_mib=256)
    pictures = {
        "fork": figures.start_cost([small, large], guess=50, ghost=large),
        "SIGSEGV": figures.crash(shipped(crash.name), guess=2),
        "Event": figures.round_trip(some, guess=1e6, ghosts=some),
        "MB/s": figures.throughput(some, guess=1e6, ghosts=[None]),
        "lost": figures.lost_updates(shipped(lost_updates.name), guess=99),
    }
    for word, ax in pictures.items():
        assert word in style.alt(ax) + style.caption(ax)
        assert "nan" not in style.caption(ax) and "None" not in style.caption(ax)
        style.show(ax)
