"""Every exercise: the solution passes, the stub fails kindly, and each mistake gets the hint meant for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.ledger import ledger
from helpers.study import check, content, exercises

EXERCISES = [exercise for chapter in content.chapters() for exercise in chapter.exercises]

# Wrong code by exercise and by the hint it should get.
WRONG: dict[str, list[tuple[str, str]]] = {
    "00-median-interval": [
        ("median-only", "def compare(a, b): return 'lower' if a[0] < b[0] else 'higher'"),
        (
            "inside",
            """
            def compare(a, b):
                if b[1] <= a[2] <= b[2] or b[1] <= a[1] <= b[2]: return "can't tell"
                return 'lower' if a[0] < b[0] else 'higher'
        """,
        ),
        (
            "touching",
            """
            def compare(a, b):
                return 'lower' if a[2] <= b[1] else 'higher' if b[2] <= a[1] else "can't tell"
        """,
        ),
        (
            "swapped",
            """
            def compare(a, b):
                return 'higher' if a[2] < b[1] else 'lower' if b[2] < a[1] else "can't tell"
        """,
        ),
        ("words", "def compare(a, b): return a[2] < b[1]"),
        ("other", 'def compare(a, b): return "can\'t tell"'),
    ],
    "00-subtract": [
        ("whole-loop", "def cost(a, b, n): return median(x - y for x, y in zip(a, b))"),
        ("not-subtracted", "def cost(a, b, n): return median(a) / n"),
        ("unpaired", "def cost(a, b, n): return (median(a) - median(b)) / n"),
        ("mean", "def cost(a, b, n): return sum(x - y for x, y in zip(a, b)) / len(a) / n"),
        ("clamped", "def cost(a, b, n): return max(0, median(x - y for x, y in zip(a, b)) / n)"),
        ("clamped", "def cost(a, b, n): return abs(median(x - y for x, y in zip(a, b)) / n)"),
        ("swapped", "def cost(a, b, n): return median(y - x for x, y in zip(a, b)) / n"),
        ("other", "def cost(a, b, n): return 21.0"),
        ("other", "def cost(a, b, n): return 'fast'"),
    ],
    "01-footprint": [
        ("three", "def footprint(groups): return 1400"),
        ("three", "def footprint(groups): return 1400, 800"),
        ("pages", "SOLUTION.replace('4 * pages', 'pages')"),
        ("order", "SOLUTION.replace('return rss, pss, uss', 'return uss, pss, rss')"),
        ("shared-whole", "SOLUTION.replace('return rss, pss', 'return rss, rss')"),
        (
            "shared-whole",
            """
            def footprint(groups):
                pages, uss = sum(p for p, _ in groups), sum(4 * p for p, n in groups if n == 1)
                return 4 * pages, 4 * pages / max((n for _, n in groups), default=1), uss
        """,
        ),
        ("rounded", "SOLUTION.replace('pages / processes', 'pages // processes')"),
        ("rounded", "SOLUTION.replace('return rss, pss', 'return rss, int(pss)')"),
        ("not-unique", "SOLUTION.replace('return rss, pss, uss', 'return rss, pss, pss')"),
        ("not-unique", "SOLUTION.replace(' if processes == 1', ' if processes < 3')"),
        ("other", "def footprint(groups): return 1, 2, 3"),
    ],
    "01-slope": [
        ("base", "def per_thread(points): return median(kib / n for n, kib in points)"),
        ("base", "def per_thread(points): return points[-1][1] / points[-1][0]"),
        ("base", "def per_thread(points): return sum(kib for _, kib in points) / sum(n for n, _ in points)"),
        (
            "ends",
            """
            def per_thread(points):
                (n0, kib0), *_, (n, kib) = sorted(points)
                return (kib - kib0) / (n - n0)
        """,
        ),
        ("neighbours", "SOLUTION.replace('combinations(points, 2)', 'zip(sorted(points), sorted(points)[1:])')"),
        ("mean", "SOLUTION.replace('median(', '(lambda slopes: sum(s := list(slopes)) / len(s))(')"),
        (
            "least-squares",
            """
            def per_thread(points):
                from statistics import linear_regression
                return linear_regression(*zip(*points)).slope
        """,
        ),
        ("inverted", "SOLUTION.replace('(kib - kib0) / (n - n0)', '(n - n0) / (kib - kib0)')"),
        ("same-count", "SOLUTION.replace(' if n != n0', '')"),
        ("other", "def per_thread(points): return 16.5"),
    ],
    "01-add-fetched": [
        ("fetch-once", "SOLUTION.replace('amount = fetch()', 'amount = fetch() and fetch()')"),
        ("fetch-once", "def add_fetched(counter, lock, fetch): counter.value += 1"),
        ("no-lock", "def add_fetched(counter, lock, fetch): counter.value += fetch()"),
        (
            "no-lock",
            """
            def add_fetched(counter, lock, fetch):
                from threading import Lock
                amount = fetch()
                with Lock():
                    counter.value += amount
        """,
        ),
        (
            "too-small",
            """
            def add_fetched(counter, lock, fetch):
                total = counter.value + fetch()
                with lock:
                    counter.value = total
        """,
        ),
        (
            "too-small",
            """
            def add_fetched(counter, lock, fetch):
                amount = fetch()
                with lock:
                    total = counter.value
                with lock:
                    counter.value = total + amount
        """,
        ),
        (
            "slow-inside",
            """
            def add_fetched(counter, lock, fetch):
                with lock:
                    counter.value += fetch()
        """,
        ),
        (
            "release",
            """
            def add_fetched(counter, lock, fetch):
                amount = fetch()
                lock.acquire()
                counter.value += amount
        """,
        ),
        (
            "release",
            """
            def add_fetched(counter, lock, fetch):
                amount = fetch()
                lock.acquire()
                counter.value += amount
                lock.release()
        """,
        ),
        (
            "release",
            """
            def add_fetched(counter, lock, fetch):
                try:
                    amount = fetch()
                    lock.acquire()
                    counter.value += amount
                finally:
                    lock.release()
        """,
        ),
        (
            "deadlock",
            """
            def add_fetched(counter, lock, fetch):
                amount = fetch()
                with lock:
                    lock.acquire()
                    counter.value += amount
        """,
        ),
        (
            "other",
            """
            def add_fetched(counter, lock, fetch):
                total = counter.value + fetch()
                with lock:
                    counter.value
                    counter.value = total
        """,
        ),
    ],
    "01-run-in-child": [
        ("no-child", "def run_in_child(function): return function()"),
        ("parent-exit", "SOLUTION.replace('if child == 0', 'if child')"),
        ("escaped", "SOLUTION.replace('os._exit(0)', 'pass')"),
        (
            "escaped",
            """
            def run_in_child(function):
                read_end, write_end = os.pipe()
                if os.fork() == 0:
                    os.write(write_end, pickle.dumps(function()))
                    raise SystemExit
                os.wait()
                os.close(write_end)
                with open(read_end, "rb") as pipe:
                    return pickle.load(pipe)
        """,
        ),
        (
            "wait-first",
            """
            def run_in_child(function):
                read_end, write_end = os.pipe()
                child = os.fork()
                if child == 0:
                    os.write(write_end, pickle.dumps(function()))
                    os._exit(0)
                os.waitpid(child, 0)
                os.close(write_end)
                with open(read_end, "rb") as pipe:
                    return pickle.load(pipe)
        """,
        ),
        ("own-end", "SOLUTION.replace('    os.close(write_end)', '    pass')"),
        (
            "truncated",
            """
            def run_in_child(function):
                read_end, write_end = os.pipe()
                child = os.fork()
                if child == 0:
                    try:
                        os.write(write_end, pickle.dumps(function()))
                    finally:
                        os._exit(0)
                os.close(write_end)
                result = pickle.loads(os.read(read_end, 1_000_000))
                os.close(read_end)
                os.waitpid(child, 0)
                return result
        """,
        ),
        ("result", "SOLUTION.replace('return result', 'return str(result)')"),
        ("result", "SOLUTION.replace('if not delivered', 'if not result')"),
        ("error", "SOLUTION.replace('if not delivered', 'if False')"),
        ("error", "SOLUTION.replace('raise RuntimeError(f\"in the child: {result}\")', 'raise ValueError(result)')"),
        ("error", "SOLUTION.replace('{result}', 'something went wrong')"),
        ("signal", "SOLUTION.replace('if code < 0', 'if False')"),
        ("signal", "SOLUTION.replace('signal.Signals(-code).name', '-code')"),
        ("silent", "SOLUTION.replace('if not answer', 'if False')"),
        ("zombie", "SOLUTION.replace('os.waitpid(child, 0)[1]', '0')"),
        ("leak", "SOLUTION.replace('open(read_end, \"rb\")', 'open(read_end, \"rb\", closefd=False)')"),
    ],
    "02-two-numbers": [
        ("swapped", "SOLUTION.replace('in_progress / wall, computing / wall', 'computing / wall, in_progress / wall')"),
        ("origin", "SOLUTION.replace(' - min(begin for begin, _, _ in tasks)', '')"),
        ("wall", "SOLUTION.replace('in_progress / wall, computing / wall', '1, computing / in_progress')"),
        ("wall", "SOLUTION.replace('max(end for _, end, _ in tasks)', 'max(e - b for b, e, _ in tasks) #')"),
        ("order", "SOLUTION.replace('max(end for _, end, _ in tasks)', 'tasks[-1][1] - tasks[0][0] #')"),
        ("seconds", "SOLUTION.replace('/ wall', '')"),
        ("seconds", "SOLUTION.replace('computing / wall', 'computing')"),
        ("count", "SOLUTION.replace('in_progress / wall', 'len(tasks)')"),
        ("share", "SOLUTION.replace('computing / wall', 'computing / in_progress')"),
        ("other", "def two_numbers(tasks): return 2.3"),
        ("other", "def two_numbers(tasks): return 2.3, 1.2"),
    ],
    "02-most-at-once": [
        ("all", "def most_at_once(intervals): return len(intervals)"),
        (
            "mean",
            """
            def most_at_once(intervals):
                wall = max(e for _, e in intervals) - min(b for b, _ in intervals)
                return sum(e - b for b, e in intervals) / wall
        """,
        ),
        ("touching", "SOLUTION.replace('sorted(edges)', 'sorted(edges, key=lambda edge: (edge[0], -edge[1]))')"),
        (
            "neighbours",
            """
            def most_at_once(intervals):
                return max((sum(b < end and begin < e for b, e in intervals) for begin, end in intervals), default=0)
        """,
        ),
        (
            "unsorted",
            """
            import heapq
            def most_at_once(intervals):
                leaving, most = [], 0
                for begin, end in intervals:
                    while leaving and leaving[0] <= begin: heapq.heappop(leaving)
                    heapq.heappush(leaving, end)
                    most = max(most, len(leaving))
                return most
        """,
        ),
        ("none", "SOLUTION.replace('    now =', '    edges[0]\\n    now =')"),
        ("none", "SOLUTION.replace('return most', 'return most or 1')"),
        ("other", "def most_at_once(intervals): return 'many'"),
    ],
    "02-serial-fraction": [
        ("parallel", "SOLUTION.replace('return (1 / ', 'return 1 - (1 / ')"),
        ("percent", "SOLUTION.replace('return (1 / ', 'return 100 * (1 / ')"),
        ("efficiency", "def serial_fraction(s, n): return s / n"),
        ("efficiency", "def serial_fraction(s, n): return 1 - s / n"),
        ("ceiling", "def serial_fraction(s, n): return 1 / s"),
        ("gustafson", "def serial_fraction(s, n): return (n - s) / (n - 1)"),
        ("remainder", "def serial_fraction(s, n): return 1 / s - 1 / n"),
        ("clamped", "def serial_fraction(s, n): return max(0, (1 / s - 1 / n) / (1 - 1 / n))"),
        ("clamped", "def serial_fraction(s, n): return min(1, (1 / s - 1 / n) / (1 - 1 / n))"),
        ("one-worker", "def serial_fraction(s, n): return (1 / s - 1 / n) / (1 - 1 / n)"),
        ("one-worker", "SOLUTION.replace('None\\n    return', '0.0\\n    return')"),
        ("other", "def serial_fraction(s, n): return 0.3"),
    ],
    "02-few-at-once": [
        ("not-async", "def cook_all(dishes, places): return ['dish 0'] * len(dishes)"),
        ("not-awaited", "async def cook_all(dishes, places): return [dish() for dish in dishes]"),
        ("not-awaited", "async def cook_all(dishes, places): return [asyncio.create_task(dish()) for dish in dishes]"),
        ("one-by-one", "async def cook_all(dishes, places): return [await dish() for dish in dishes]"),
        ("unlimited", "async def cook_all(dishes, places): return await asyncio.gather(*(dish() for dish in dishes))"),
        ("unlimited", "SOLUTION.replace('async with free', 'async with asyncio.Semaphore(places)')"),
        (
            "batches",
            """
            async def cook_all(dishes, places):
                done = []
                for first in range(0, len(dishes), places):
                    done += await asyncio.gather(*(dish() for dish in dishes[first:first + places]))
                return done
        """,
        ),
        (
            "order",
            "SOLUTION.replace('await asyncio.gather(*(cook(dish) for dish in dishes))', "
            "'[await done for done in asyncio.as_completed([cook(dish) for dish in dishes])]')",
        ),
        ("other", "async def cook_all(dishes, places): return len(dishes)"),
        ("other", "SOLUTION.replace('in dishes))', 'in dishes[1:]))')"),
    ],
    "03-cost-per-switch": [
        ("round-trip", "def cost_per_switch(r): return median(a - b for a, b in r) / 1000"),
        ("round-trip", "def cost_per_switch(r): return median(a - 2 * b for a, b in r) / 1000"),
        ("overhead", "def cost_per_switch(r): return median(a / 2 for a, b in r) / 1000"),
        ("halved-twice", "def cost_per_switch(r): return median((a - b) / 2 for a, b in r) / 1000"),
        ("nanoseconds", "def cost_per_switch(r): return median(a / 2 - b for a, b in r)"),
        ("mean", "def cost_per_switch(r): return sum(a / 2 - b for a, b in r) / len(r) / 1000"),
        ("unpaired", "def cost_per_switch(r): return (median(a for a, b in r) / 2 - median(b for a, b in r)) / 1000"),
        ("clamped", "def cost_per_switch(r): return max(0, median(a / 2 - b for a, b in r) / 1000)"),
        ("other", "def cost_per_switch(r): return 3.1"),
        ("other", "def cost_per_switch(r): return float('nan')"),
    ],
    "03-switch-share": [
        ("totals", "def voluntary_share(a, b): return 100 * b.ru_nvcsw / (b.ru_nvcsw + b.ru_nivcsw)"),
        (
            "fraction",
            """
            def voluntary_share(a, b):
                v, i = b.ru_nvcsw - a.ru_nvcsw, b.ru_nivcsw - a.ru_nivcsw
                return v / (v + i)
        """,
        ),
        (
            "other-kind",
            """
            def voluntary_share(a, b):
                v, i = b.ru_nvcsw - a.ru_nvcsw, b.ru_nivcsw - a.ru_nivcsw
                return 100 * i / (v + i)
        """,
        ),
        (
            "ratio",
            """
            def voluntary_share(a, b):
                return 100 * (b.ru_nvcsw - a.ru_nvcsw) / (b.ru_nivcsw - a.ru_nivcsw)
        """,
        ),
        (
            "no-switches",
            """
            def voluntary_share(a, b):
                v, i = b.ru_nvcsw - a.ru_nvcsw, b.ru_nivcsw - a.ru_nivcsw
                return 100 * v / (v + i)
        """,
        ),
        (
            "no-switches",
            """
            def voluntary_share(a, b):
                v, i = b.ru_nvcsw - a.ru_nvcsw, b.ru_nivcsw - a.ru_nivcsw
                return 100 * v / (v + i) if v + i else 0
        """,
        ),
        ("other", "def voluntary_share(a, b): return 57.0"),
    ],
    "03-cycle": [
        ("length", "def random_cycle(n): return list(range(n - 1))"),
        ("length", "def random_cycle(n): return n"),
        ("permutation", "def random_cycle(n): return [1] * n"),
        (
            "several-cycles",
            """
            def random_cycle(n):
                order = list(range(n))
                random.shuffle(order)
                return order
        """,
        ),
        ("not-random", "def random_cycle(n): return [(i + 1) % n for i in range(n)]"),
        (
            "uneven",
            """
            def random_cycle(n):
                order = list(range(n))
                if random.randrange(2) or n > 4: random.shuffle(order)
                following = [0] * n
                for i in range(n): following[order[i - 1]] = order[i]
                return following
        """,
        ),
    ],
    "03-ping-pong": [
        ("no-pipes", "def ping_pong(rounds): return rounds, rounds"),
        (
            "one-pipe",
            """
            def ping_pong(rounds):
                r, w = os.pipe()
                for _ in range(rounds):
                    os.write(w, b"x")
                    os.read(r, 1)
                os.close(r)
                os.close(w)
                return rounds, rounds
        """,
        ),
        (
            "one-thread",
            """
            def ping_pong(rounds):
                there, back = os.pipe(), os.pipe()
                for _ in range(rounds):
                    os.write(there[1], b"x")
                    os.read(there[0], 1)
                    os.write(back[1], b"x")
                    os.read(back[0], 1)
                for end in (*there, *back):
                    os.close(end)
                return rounds, rounds
        """,
        ),
        (
            "in-flight",
            """
            def ping_pong(rounds):
                there, back = os.pipe(), os.pipe()
                got = []
                def other():
                    for _ in range(rounds): got.append(os.read(there[0], 1))
                    os.write(back[1], b"x" * rounds)
                thread = Thread(target=other)
                os.write(there[1], b"x" * rounds)
                thread.start()
                thread.join()
                mine = len(os.read(back[0], rounds))
                for end in (*there, *back): os.close(end)
                return mine, len(got)
        """,
        ),
        ("count", "SOLUTION.replace('got, sum', 'got + 1, sum')"),
        ("leak", "SOLUTION.replace('*there, *back', '*there,')"),
        (
            "running",
            'SOLUTION.replace(\'os.write(back[1], b"x")\', \'os.write(back[1], b"x")\\n'
            "        sleep(0.2)').replace('other.join()', '')",
        ),
        ("thread-failed", "SOLUTION.replace('os.read(there[0], 1)', 'os.read(there[0])')"),
    ],
    "04-turns": [
        ("by-thread", "def turns(by): return [(name, its[0][0], its[-1][1]) for name, its in by.items()]"),
        ("order", "def turns(by): return [(name, *its) for name, all_its in by.items() for its in all_its]"),
        ("order", "SOLUTION.replace('return merged', 'return sorted(merged)')"),
        ("unmerged", "SOLUTION.replace('== thread:', '== thread and begin < merged[-1][2]:')"),
        ("end", "SOLUTION.replace('begin = merged.pop()[1]', 'continue')"),
        ("last", "SOLUTION.replace('return merged', 'return merged[:-1]')"),
        ("other", "SOLUTION.replace('thread, begin, end))', 'thread, begin, end - begin))')"),
        ("other", "def turns(by): return len(by)"),
        ("other", "SOLUTION.replace('return merged', 'return merged[1:]')"),
    ],
    "04-ceilings": [
        ("gil", "SOLUTION.replace('if python:', 'if False:')"),
        ("gil", "def tasks_per_second(w, p, n, threads, cores): return 1000 * threads / (w + p + n)"),
        ("threads", "SOLUTION.replace('min(ceilings)', 'min(ceilings[1:])')"),
        ("cores", "SOLUTION.replace('if python + native:', 'if False:')"),
        ("native", "SOLUTION.replace('1 / python)', '1 / (python + native))')"),
        ("waiting", "SOLUTION.replace('1 / python)', '1 / (waiting + python + native))')"),
        ("waiting", "SOLUTION.replace('1 / python)', '1 / (waiting + python))')"),
        ("highest", "SOLUTION.replace('min', 'max')"),
        ("milliseconds", "SOLUTION.replace('1000 * ', '')"),
        ("zero", "SOLUTION.replace('if python:', 'if True:')"),
        ("zero", "SOLUTION.replace('if python + native:', 'if True:')"),
        ("other", "SOLUTION.replace('1000 * min', '60_000 * min')"),
    ],
    "04-switch-interval": [
        ("too-late", "SOLUTION.replace('    sys.setswitchinterval(seconds)\\n', '')"),
        ("not-restored", "SOLUTION.replace('sys.setswitchinterval(before)', 'pass')"),
        ("default", "SOLUTION.replace('sys.setswitchinterval(before)', 'sys.setswitchinterval(0.005)')"),
        ("no-finally", "SOLUTION.replace('try:', 'if True:').replace('finally:', 'if True:')"),
        ("swallowed", "SOLUTION.replace('finally:', 'except Exception:\\n        pass\\n    finally:')"),
        (
            "nested",
            """
            @contextmanager
            def switch_interval(seconds):
                global before
                before = sys.getswitchinterval()
                sys.setswitchinterval(seconds)
                try:
                    yield
                finally:
                    sys.setswitchinterval(before)
        """,
        ),
        ("other", "SOLUTION.replace('(seconds)\\n    try', '(seconds * 2)\\n    try')"),
        ("other", "def switch_interval(seconds): yield"),
    ],
    "04-once": [
        ("every-time", "def once_per_key(create): return create"),
        ("every-time", "def once_per_key(create): made = {}; return lambda key: made.setdefault(key, create(key))"),
        ("falsy", "SOLUTION.replace('if key not in made', 'if not made.get(key)')"),
        ("shared", "SOLUTION.replace('made, locks = {}', 'made, locks = MADE') + '\\nMADE = {}'"),
        (
            "failure",
            "SOLUTION.replace('made[key] = create(key)', "
            "'try:\\n                    made[key] = create(key)\\n"
            "                except Exception:\\n                    made[key] = None')",
        ),
        ("no-lock", "SOLUTION.replace('with lock:', 'if True:')"),
        ("no-lock", "def once_per_key(create): import functools; return functools.cache(create)"),
        (
            "checked-outside",
            """
            def once_per_key(create):
                made, lock = {}, Lock()
                def get(key):
                    if key not in made:
                        with lock:
                            made[key] = create(key)
                    return made[key]
                return get
        """,
        ),
        (
            "one-lock",
            """
            def once_per_key(create):
                made, lock = {}, Lock()
                def get(key):
                    with lock:
                        if key not in made:
                            made[key] = create(key)
                        return made[key]
                return get
        """,
        ),
        ("other", "def once_per_key(create): return 'soup'"),
        ("other", "SOLUTION.replace('return made[key]', 'return [made[key]]')"),
    ],
    "05-page": [
        ("set-up", "SOLUTION.replace('set_up = 2 if tls else 1', 'set_up = 1 if tls else 0')"),
        ("set-up", "SOLUTION.replace('in_a_row * (set_up + 1)', 'in_a_row * set_up')"),
        ("closed", "SOLUTION.replace('in_a_row * (set_up + 1)', 'in_a_row + set_up')"),
        ("kept", "SOLUTION.replace('set_up + in_a_row', 'in_a_row * (set_up + 1)')"),
        ("multiplexed", "SOLUTION.replace('return set_up + 1', 'return set_up + requests')"),
        ("multiplexed", "SOLUTION.replace('return set_up + 1', 'return set_up + in_a_row')"),
        ("one-by-one", "SOLUTION.replace('requests / connections', 'requests')"),
        ("round-up", "SOLUTION.replace('math.ceil(requests / connections)', 'requests // connections')"),
        ("round-up", "SOLUTION.replace('math.ceil(requests / connections)', 'requests / connections')"),
        ("round-up", "SOLUTION.replace('math.ceil(requests / connections)', 'requests // connections + 1')"),
        ("added-up", "SOLUTION.replace('set_up + in_a_row', 'connections * set_up + in_a_row')"),
        ("no-tls", "SOLUTION.replace('2 if tls else 1', '1')"),
        ("tls-once", "SOLUTION.replace('in_a_row * (set_up + 1)', 'in_a_row * 2 + tls')"),
        ("old-tls", "SOLUTION.replace('2 if tls', '3 if tls')"),
        ("other", "def round_trips(protocol, requests, connections, tls): return 'many'"),
        ("other", "SOLUTION.replace('return in_a_row', 'return 7 * in_a_row')"),
    ],
    "05-farthest": [
        ("remainder", "SOLUTION.replace('(budget - remainder) / k', 'budget / k')"),
        ("origin", "def farthest(points, budget): return budget / (sum(y / x for x, y in points) / len(points))"),
        ("origin", "def farthest(p, budget): return budget * sum(x for x, _ in p) / sum(y for _, y in p)"),
        (
            "origin",
            """
            def farthest(points, budget):
                return budget / linear_regression(*zip(*points), proportional=True).slope
        """,
        ),
        *(
            (
                "ends",
                f"""
            def farthest(points, budget):
                (x0, y0), *_, (x1, y1) = {points}
                return x0 + (budget - y0) * (x1 - x0) / (y1 - y0)
        """,
            )
            for points in ("points", "sorted(points)")
        ),
        (
            "swapped",
            """
            def farthest(points, budget):
                slope, intercept = linear_regression([y for _, y in points], [x for x, _ in points])
                return slope * budget + intercept
        """,
        ),
        ("forwards", "SOLUTION.replace('(budget - remainder) / k', 'k * budget + remainder')"),
        ("measured", "def farthest(points, budget): return max(x for x, y in points if y <= budget)"),
        ("measured", "SOLUTION.replace('budget < remainder', 'budget > max(points)[1]')"),
        ("nowhere", "SOLUTION.replace('budget < remainder', 'False')"),
        ("nowhere", "SOLUTION.replace('return None', 'return 0')"),
        ("other", "SOLUTION.replace('remainder) / k', 'remainder) / k / 2')"),
        ("other", "def farthest(points, budget): return 'here'"),
    ],
    "05-message": [
        ("length", "SOLUTION.replace('length - 4', 'length')"),
        ("length", "SOLUTION.replace('length - 4', 'length - 5')"),
        ("byte-order", "SOLUTION.replace('!I', '<I')"),
        (
            "too-much",
            """
            def read_message(sock):
                data = sock.recv(4096)
                (length,) = struct.unpack("!I", data[1:5])
                return data[:1], data[5:length + 1]
        """,
        ),
        (
            "pieces",
            """
            def read_message(sock):
                kind = sock.recv(1)
                (length,) = struct.unpack("!I", sock.recv(4))
                return kind, sock.recv(length - 4)
        """,
        ),
        (
            "pieces",
            """
            def read_message(sock):
                kind = sock.recv(1)
                length = int.from_bytes(sock.recv(4), "big")
                return kind, read_exactly(sock, length - 4)

            def read_exactly(sock, size):
                read = b""
                while len(read) < size: read += sock.recv(size - len(read))
                return read
        """,
        ),
        (
            "nothing",
            """
            def read_message(sock):
                kind = sock.recv(1)
                (length,) = struct.unpack("!I", read_exactly(sock, 4))
                return kind, read_exactly(sock, length - 4)

            def read_exactly(sock, size):
                read = b""
                while True:
                    piece = sock.recv(size - len(read))
                    if not piece: raise EOFError
                    read += piece
                    if len(read) == size: return read
        """,
        ),
        ("end", "SOLUTION.replace('return None', 'raise EOFError')"),
        ("end", "SOLUTION.replace('return None', 'return b\"\", b\"\"')"),
        ("cut-off", "SOLUTION.replace('raise EOFError', 'return read  # ')"),
        ("cut-off", "SOLUTION.replace('raise EOFError', 'raise ValueError')"),
        ("forever", "SOLUTION.replace('if not piece', 'if False')"),
        ("other", "SOLUTION.replace('return kind,', 'return kind.decode(),')"),
        ("other", "SOLUTION.replace('return kind,', 'return')"),
        ("other", "SOLUTION.replace('length - 4', 'length - 6')"),
        ("other", "SOLUTION.replace('length - 4', 'length % 256 - 4')"),
    ],
    "05-frame": [
        ("first-byte", "SOLUTION.replace('x81', 'x01')"),
        ("first-byte", "SOLUTION.replace('x81', 'x82')"),
        ("first-byte", "SOLUTION.replace('b\"\\\\x81\" + ', '')"),
        ("mask-bit", "SOLUTION.replace('0x80 | ', '')"),
        ("no-key", "SOLUTION.replace('+ key ', '')"),
        ("not-masked", "SOLUTION.replace('+ masked', '+ data')"),
        ("not-masked", "SOLUTION.replace('+ key + masked', '+ data')"),
        ("one-byte-key", "SOLUTION.replace('key[place % 4]', 'key[0]')"),
        ("characters", "SOLUTION.replace('len(data)', 'len(text)')"),
        ("long", "SOLUTION.replace('len(data) <= 125', 'True')"),
        ("long", "SOLUTION.replace('len(data) <= 65_535', 'True')"),
        ("byte-order", "SOLUTION.replace('!BH', '<BH')"),
        ("byte-order", "SOLUTION.replace('!BQ', '<BQ')"),
        ("boundary", "SOLUTION.replace('<= 125', '< 125')"),
        ("boundary", "SOLUTION.replace('<= 125', '<= 126')"),
        ("boundary", "SOLUTION.replace('<= 65_535', '< 65_535')"),
        ("boundary", "SOLUTION.replace('<= 65_535', '<= 65_536')"),
        ("other", "def frame(text, key): return text"),
        ("other", "SOLUTION.replace('+ key + masked', '+ masked + key')"),
        ("other", "SOLUTION.replace('place % 4', 'place % 3')"),
    ],
    "06-next-wait": [
        ("ready", "SOLUTION.replace('if ready:', 'if ready and not timers:')"),
        ("ready", "def next_wait(ready, timers, now): return max(0, timers[0] - now) if timers else None"),
        ("moment", "SOLUTION.replace('max(0, timers[0] - now)', 'timers[0]')"),
        ("late", "SOLUTION.replace('max(0, timers[0] - now)', 'timers[0] - now')"),
        ("last", "SOLUTION.replace('timers[0]', 'timers[-1]')"),
        ("spin", "SOLUTION.replace('return None', 'return 0')"),
        ("for-ever", "SOLUTION.replace('if timers:', 'if len(timers) > 1:')"),
        ("other", "SOLUTION.replace('timers[0] - now', 'now - timers[0]')"),
    ],
    "06-by-hand": [
        ("async", "async def drive(coroutine, answer): return await coroutine"),
        (
            "iterate",
            """
            def drive(coroutine, answer):
                for request in coroutine: answer(request)
        """,
        ),
        ("start", "SOLUTION.replace('coroutine.send, None', \"coroutine.send, ''\")"),
        (
            "no-answer",
            "SOLUTION.replace('coroutine.send, answer(request)', 'coroutine.send, answer(request) and None')",
        ),
        (
            "no-answer",
            """
            def drive(coroutine, answer):
                for request in coroutine.__await__(): answer(request)
        """,
        ),
        ("lost-result", "SOLUTION.replace('return end.value', 'return None')"),
        (
            "lost-result",
            """
            def drive(coroutine, answer):
                request = coroutine.send(None)
                while True: request = coroutine.send(answer(request))
        """,
        ),
        (
            "not-thrown",
            """
            def drive(coroutine, answer):
                value = None
                try:
                    while True: value = answer(coroutine.send(value))
                except StopIteration as end: return end.value
        """,
        ),
        ("not-thrown", "SOLUTION.replace('coroutine.throw, error', 'coroutine.send, error')"),
        (
            "lost-request",
            """
            def drive(coroutine, answer):
                value = None
                try:
                    while True:
                        request = coroutine.send(value)
                        try: value = answer(request)
                        except Exception as error:
                            coroutine.throw(error)
                            value = None
                except StopIteration as end: return end.value
        """,
        ),
        (
            "swallowed",
            "SOLUTION.replace('return end.value', 'return end.value\\n        except Exception: return None')",
        ),
        (
            "unfinished",
            """
            def drive(coroutine, answer):
                request = coroutine.send(None)
                try:
                    while request: request = coroutine.send(answer(request))
                except StopIteration as end: return end.value
        """,
        ),
        ("other", "SOLUTION.replace('answer(request)', '[answer(request)]')"),
    ],
    "06-slices": [
        ("not-async", "def in_slices(steps, seconds, clock): return [step() for step in steps]"),
        ("blocks", "async def in_slices(steps, seconds, clock): return [step() for step in steps]"),
        ("blocks", "SOLUTION.replace('>= seconds', '>= 10 * seconds')"),
        ("blocks", "SOLUTION.replace('await asyncio.sleep(0)', 'sleep(0)')"),
        ("each-step", "SOLUTION.replace('clock() - began >= seconds', 'results')"),
        ("by-count", "SOLUTION.replace('clock() - began >= seconds', 'len(results) % 7 == 6')"),
        ("not-anew", "SOLUTION.replace('            began = clock()\\n', '')"),
        (
            "others",
            "SOLUTION.replace('await asyncio.sleep(0)\\n            began = clock()', "
            "'began = clock()\\n            await asyncio.sleep(0)')",
        ),
        ("sleeps", "SOLUTION.replace('sleep(0)', 'sleep(0.05)')"),
        ("thread", "SOLUTION.replace('step()', 'await asyncio.to_thread(step)')"),
        ("results", "SOLUTION.replace('return results', 'return results[::-1]')"),
        ("results", "SOLUTION.replace('results.append(step())', 'results.append(step)')"),
        ("other", "SOLUTION.replace('results.append(step())', 'results.append(step()); began -= 0.001')"),
    ],
    "06-first-answer": [
        ("not-async", "def first_answer(coroutines, seconds): return 'server 2'"),
        (
            "one-by-one",
            """
            async def first_answer(coroutines, seconds):
                async with asyncio.timeout(seconds):
                    for coroutine in coroutines: return await coroutine
        """,
        ),
        ("late", "SOLUTION.replace(', return_when=asyncio.FIRST_COMPLETED', '')"),
        ("not-result", "SOLUTION.replace('done.pop().result()', 'done.pop()')"),
        (
            "left-running",
            """
            async def first_answer(coroutines, seconds):
                return await next(asyncio.as_completed(coroutines, timeout=seconds))
        """,
        ),
        ("not-awaited", "SOLUTION.replace('await asyncio.gather(*tasks, return_exceptions=True)', '')"),
        ("no-timeout", "SOLUTION.replace('asyncio.timeout(seconds)', 'asyncio.timeout(None)')"),
        ("too-early", "SOLUTION.replace('asyncio.timeout(seconds)', 'asyncio.timeout(seconds / 3)')"),
        (
            "wrong-error",
            "SOLUTION.replace('    finally:', '    except TimeoutError:\\n        return None\\n    finally:')",
        ),
        (
            "swallowed",
            "SOLUTION.replace('return done.pop().result()', "
            "'try: return done.pop().result()\\n        except Exception: return None')",
        ),
        ("hidden", "SOLUTION.replace('return_exceptions=True', 'return_exceptions=False')"),
        (
            "timeout-leak",
            """
            async def first_answer(coroutines, seconds):
                tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
                done, others = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if not done: raise TimeoutError
                for task in others: task.cancel()
                await asyncio.gather(*others, return_exceptions=True)
                return done.pop().result()
        """,
        ),
        (
            "cancel-leak",
            """
            async def first_answer(coroutines, seconds):
                tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
                done, others = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in others: task.cancel()
                await asyncio.gather(*others, return_exceptions=True)
                if not done: raise TimeoutError
                return done.pop().result()
        """,
        ),
        ("other", "SOLUTION.replace('return done.pop().result()', 'return done.pop().result().upper()')"),
    ],
    "07-burst": [
        ("pair", "def burst(clients, threads, queue, service_ms): return max(0, clients - threads - queue)"),
        ("in-service", "SOLUTION.replace('threads + queue', 'queue')"),
        ("negative", "SOLUTION.replace('clients - served', 'clients - threads - queue')"),
        ("turned-away-wait", "SOLUTION.replace('(served - 1)', '(clients - 1)')"),
        ("one-thread", "SOLUTION.replace('(served - 1) // threads', 'max(0, served - threads)')"),
        ("fluid", "SOLUTION.replace('(served - 1) // threads', 'max(0, served - threads) / threads')"),
        ("own-service", "SOLUTION.replace('rounds * service_ms', '(rounds + 1) * service_ms')"),
        ("one-more", "SOLUTION.replace('(served - 1) // threads', 'served // threads')"),
        ("other", "SOLUTION.replace('* service_ms', '* service_ms / 1000')"),
    ],
    "07-accept": [
        ("pair", "SOLUTION.replace('return connections, False', 'return connections')"),
        (
            "once",
            """
            def accept_all(listener):
                connection, _ = listener.accept()
                connection.setblocking(False)
                return [connection], False
        """,
        ),
        (
            "nobody",
            """
            def accept_all(listener):
                connections = []
                while True:
                    connections.append(listener.accept()[0])
        """,
        ),
        ("blocking", "SOLUTION.replace('connection.setblocking(False)', 'pass')"),
        (
            "address",
            "SOLUTION.replace('connection, _ =', 'connection =')"
            ".replace('connection.setblocking', 'connection[0].setblocking')",
        ),
        ("full", "SOLUTION.replace('(errno.EMFILE, errno.ENFILE)', '(errno.ENFILE,)')"),
        ("lost", "SOLUTION.replace('return connections, True', 'return [], True')"),
        ("not-told", "SOLUTION.replace('return connections, True', 'return connections, False')"),
        ("spins", "SOLUTION.replace('return connections, True', 'continue')"),
        ("system", "SOLUTION.replace('(errno.EMFILE, errno.ENFILE)', '(errno.EMFILE,)')"),
        ("false-alarm", "SOLUTION.replace('return connections, False', 'return connections, True')"),
        ("aborted", "SOLUTION.replace('except ConnectionAbortedError', 'except ConnectionResetError')"),
        ("aborted", "SOLUTION.replace('            continue', '            return connections, False')"),
        ("swallowed", "SOLUTION.replace('                raise', '                return connections, False')"),
        ("swallowed", "SOLUTION.replace('                raise', '                continue')"),
    ],
    "07-deadline": [
        ("pair", "SOLUTION.replace('return head, rest', 'return head')"),
        (
            "pieces",
            """
            def read_head(sock, seconds, limit, clock):
                sock.settimeout(seconds)
                head, _, rest = sock.recv(4096).partition(b"\\r\\n\\r\\n")
                return head, rest
        """,
        ),
        ("no-end", "SOLUTION.replace('not in data', 'not in data[:-4]')"),
        ("no-end", "SOLUTION.replace('not in data', 'not in data[:-4]').replace('sock.settimeout(left)', 'pass')"),
        ("rest", 'SOLUTION.replace("return head, rest", "return head, b\'\'")'),
        ("no-timeout", "SOLUTION.replace('sock.settimeout(left)', 'pass')"),
        ("per-recv", "SOLUTION.replace('sock.settimeout(left)', 'sock.settimeout(seconds)')"),
        ("per-recv", "SOLUTION.replace('left = deadline - clock()', 'left = seconds')"),
        ("early", "SOLUTION.replace('clock() + seconds', 'clock() + seconds / 2')"),
        ("over", "SOLUTION.replace('if left <= 0:', 'if False:')"),
        ("over", "SOLUTION.replace('if left <= 0:', 'left = max(0, left)\\n        if False:')"),
        ("wrong-error", "SOLUTION.replace('raise TimeoutError(', 'raise EOFError(')"),
        (
            "wrong-error",
            """
            def read_head(sock, seconds, limit, clock):
                deadline, data = clock() + seconds, b""
                while b"\\r\\n\\r\\n" not in data:
                    try:
                        sock.settimeout(max(deadline - clock(), 0.0001))
                        piece = sock.recv(4096)
                    except TimeoutError: return None
                    if not piece: raise EOFError
                    data += piece
                return tuple(data.split(b"\\r\\n\\r\\n", 1))
        """,
        ),
        ("end", 'SOLUTION.replace("raise EOFError(", "return data, b\'\' #")'),
        ("forever", "SOLUTION.replace('if not piece:', 'if False:')"),
        ("limit", "SOLUTION.replace('if len(data) > limit:', 'if False:')"),
        ("other", "SOLUTION.replace('return head, rest', 'return head.upper(), rest')"),
    ],
    "07-frames": [
        ("feed", "def frame_reader(limit): return [limit]"),
        ("feed", "SOLUTION.replace('return frames', 'return frames or None')"),
        ("opcode", "SOLUTION.replace('data[0] & 0x0F', 'data[0]')"),
        ("mask-bit", "SOLUTION.replace('data[1] & 0x7F', 'data[1]')"),
        ("not-unmasked", "SOLUTION.replace('byte ^ key[place % 4]', 'byte')"),
        ("long", "SOLUTION.replace('if size > 125:', 'if False:')"),
        ("long", "SOLUTION.replace('big', 'little')"),
        ("long", "SOLUTION.replace('4 if size == 126 else 10', '4')"),
        ("no-payload", "SOLUTION.replace('frames.append(', 'payload and frames.append(')"),
        ("several", "SOLUTION.replace('while frame', 'if frame')"),
        ("again", "SOLUTION.replace('while frame', 'if frame').replace('del kept[:end]', 'pass')"),
        ("pieces", "SOLUTION.replace('kept.extend(data)', 'kept[:] = data')"),
        ("pieces", "SOLUTION.replace('if len(data) < end:', 'if len(data) < begin:')"),
        (
            "shared",
            "SOLUTION.replace('    kept = bytearray()\\n', '')"
            ".replace('def frame_reader', 'kept = bytearray()\\ndef frame_reader')",
        ),
        ("unmasked", "SOLUTION.replace('not data[1] & 0x80 or ', '')"),
        ("limit", "SOLUTION.replace(' or size > limit', '')"),
        (
            "limit",
            "SOLUTION.replace(' or size > limit', '')"
            ".replace('    key =', '    if size > limit: raise ValueError\\n    key =')",
        ),
        ("too-strict", "SOLUTION.replace('size > limit', 'size >= limit')"),
        ("other", "SOLUTION.replace('data[0] & 0x0F', 'data[0] & 0x0E')"),
    ],
    "08-size-by-law": [
        ("milliseconds", "SOLUTION.replace(' / 1000', '')"),
        ("in-use", "SOLUTION.replace('in_use / utilisation', 'in_use')"),
        ("multiplied", "SOLUTION.replace('in_use / utilisation', 'in_use * utilisation')"),
        ("headroom", "SOLUTION.replace('in_use / utilisation', 'in_use * (2 - utilisation)')"),
        ("down", "SOLUTION.replace('math.ceil', 'int')"),
        ("down", "SOLUTION.replace('math.ceil', 'round')"),
        ("unrounded", "SOLUTION.replace('math.ceil', '')"),
        ("one-more", "SOLUTION.replace('math.ceil(round(in_use / utilisation, 9))', 'int(in_use / utilisation) + 1')"),
        ("inverted", "SOLUTION.replace('* hold_ms / 1000', '/ hold_ms')"),
        ("other", "def pool_size(rate, hold_ms, utilisation): return 7"),
        ("other", "def pool_size(rate, hold_ms, utilisation): return 'ten'"),
    ],
    "08-fleet": [
        ("instances", "SOLUTION.replace('sum(instances * each for', 'sum(each for').replace('min(each, ', '(')"),
        (
            "per-service",
            """
            def pool_sizes(services, max_connections, reserve):
                there = max_connections - reserve
                wanted = sum(instances * each for instances, each in services.values())
                return {name: n * each * there // wanted for name, (n, each) in services.items()}
        """,
        ),
        ("reserve", "SOLUTION.replace('max_connections - reserve', 'max_connections')"),
        (
            "over",
            "def pool_sizes(services, limit, reserve): return {name: each for name, (_, each) in services.items()}",
        ),
        ("over", "SOLUTION.replace('each * there // wanted', 'round(each * there / wanted)')"),
        ("over", "SOLUTION.replace('each * there // wanted', '-(each * there // -wanted)')"),
        ("more-than-wished", "SOLUTION.replace('min(each, each * there // wanted)', 'each * there // wanted')"),
        (
            "equal",
            """
            def pool_sizes(services, max_connections, reserve):
                share = (max_connections - reserve) // sum(instances for instances, _ in services.values())
                return {name: min(each, share) for name, (_, each) in services.items()}
        """,
        ),
        (
            "equal",
            """
            def pool_sizes(services, max_connections, reserve):
                share = (max_connections - reserve) // len(services)
                return {name: share // instances for name, (instances, _) in services.items()}
        """,
        ),
        ("wasteful", "SOLUTION.replace('min(each,', 'min(each * 9 // 10,')"),
        ("none", "SOLUTION.replace('if any(size < 1 for size in sizes.values())', 'if False')"),
        ("none", "SOLUTION.replace('min(each, each * there // wanted)', 'max(1, min(each, each * there // wanted))')"),
        ("refused", "SOLUTION.replace('if any(size < 1 for size in sizes.values())', 'if wanted > there')"),
        ("other", "def pool_sizes(services, max_connections, reserve): return 10"),
        ("other", "SOLUTION.replace('each * there // wanted', 'each * there / wanted')"),
        ("other", "SOLUTION.replace('each * there // wanted', 'each * there // wanted - 1')"),
    ],
    "08-borrowed": [
        (
            "leak",
            """
            @contextmanager
            def borrowed(pool):
                yield pool.get()
        """,
        ),
        ("no-finally", "SOLUTION.replace('try:', 'if True:').replace('finally:', 'if True:')"),
        ("swallowed", "SOLUTION.replace('finally:', 'except Exception:\\n        pass\\n    finally:', 1)"),
        ("dirty", "SOLUTION.replace('connection.rollback()', 'pass')"),
        (
            "dirty",
            """
            @contextmanager
            def borrowed(pool):
                connection = pool.get()
                try:
                    yield connection
                except Exception:
                    connection.rollback()
                    raise
                finally:
                    pool.put(connection)
        """,
        ),
        (
            "too-late",
            """
            @contextmanager
            def borrowed(pool):
                connection = pool.get()
                try:
                    yield connection
                finally:
                    pool.drop(connection) if connection.broken else pool.put(connection)
                    connection.rollback()
        """,
        ),
        ("broken", "SOLUTION.replace('pool.drop(connection)', 'pool.put(connection)')"),
        ("not-dropped", "SOLUTION.replace('pool.drop(connection)', 'pass')"),
        ("hidden", "SOLUTION.replace('if not connection.broken:', 'if True:')"),
        (
            "hidden",
            """
            @contextmanager
            def borrowed(pool):
                connection = pool.get()
                broken = connection.broken
                try:
                    yield connection
                finally:
                    if broken:
                        pool.drop(connection)
                    else:
                        connection.rollback()
                        pool.put(connection)
        """,
        ),
        (
            "found-out",
            """
            @contextmanager
            def borrowed(pool):
                connection = pool.get()
                try:
                    yield connection
                finally:
                    if connection.broken:
                        pool.drop(connection)
                    else:
                        connection.rollback()
                        pool.put(connection)
        """,
        ),
        (
            "found-out",
            """
            @contextmanager
            def borrowed(pool):
                connection = pool.get()
                try:
                    yield connection
                finally:
                    if connection.broken:
                        pool.drop(connection)
                    else:
                        try:
                            connection.rollback()
                        finally:
                            pool.put(connection)
        """,
        ),
        (
            "dropped",
            """
            @contextmanager
            def borrowed(pool):
                connection = pool.get()
                try:
                    yield connection
                except Exception:
                    pool.drop(connection)
                    raise
                else:
                    connection.rollback()
                    pool.put(connection)
        """,
        ),
        (
            "twice",
            """
            @contextmanager
            def borrowed(pool):
                connection = pool.get()
                try:
                    yield connection
                    connection.rollback()
                    pool.put(connection)
                finally:
                    if connection.broken:
                        pool.drop(connection)
                    else:
                        connection.rollback()
                        pool.put(connection)
        """,
        ),
        (
            "nothing-taken",
            "SOLUTION.replace('    connection = pool.get()\\n    try:\\n', "
            "'    try:\\n        connection = pool.get()\\n')",
        ),
        (
            "nothing-taken",
            "SOLUTION.replace('pool.get()', 'getattr(pool, \"connection\") if pool.empty else pool.get()')",
        ),
        ("other", "def borrowed(pool): return pool.get()"),
        ("other", "SOLUTION.replace('yield connection', 'yield pool')"),
        ("other", "SOLUTION.replace('    try:', '    connection.rollback()\\n    try:', 1)"),
    ],
    "08-pool": [
        (
            "eager",
            """
            def make_pool(connect, size):
                idle, changed = [connect() for _ in range(size)], Condition()
                def get(timeout):
                    with changed:
                        if not changed.wait_for(lambda: idle, timeout): raise TimeoutError
                        return idle.pop()
                def put(connection):
                    with changed:
                        idle.append(connection)
                        changed.notify()
                return get, put
        """,
        ),
        ("reuse", "SOLUTION.replace('if idle:', 'if idle and not places:')"),
        (
            "too-many",
            "SOLUTION.replace('            places -= 1', '').replace('return connect()', "
            "'connection = connect()\\n            places -= 1\\n            return connection')",
        ),
        (
            "no-limit",
            """
            def make_pool(connect, size):
                idle = []
                def get(timeout): return idle.pop() if idle else connect()
                return get, idle.append
        """,
        ),
        ("no-timeout", "SOLUTION.replace('places, timeout)', 'places)')"),
        (
            "too-soon",
            "SOLUTION.replace('not changed.wait_for(lambda: idle or places, timeout)', 'not (idle or places)')",
        ),
        ("wrong-error", "SOLUTION.replace('raise TimeoutError', 'return None #')"),
        ("wrong-error", "SOLUTION.replace('raise TimeoutError', 'raise LookupError')"),
        (
            "asleep",
            "SOLUTION.replace('idle.append(connection)\\n            changed.notify()', 'idle.append(connection)')",
        ),
        (
            "asleep",
            "SOLUTION.replace('changed.notify()\\n\\n    return', 'idle[1:] and changed.notify()\\n\\n    return')",
        ),
        (
            "deadlock",
            "SOLUTION.replace('if not changed.wait_for(lambda: idle or places, timeout)', "
            "'end = time() + timeout\\n            while not (idle or places) and time() < end: sleep(0.01)\\n"
            "            if not (idle or places)')"
            ".replace('def make', 'from time import sleep, monotonic as time\\ndef make')",
        ),
        (
            "woken-in-vain",
            "SOLUTION.replace('if not changed.wait_for(lambda: idle or places, timeout)', "
            "'if not (idle or places) and not changed.wait(timeout)')",
        ),
        (
            "woken-in-vain",
            "SOLUTION.replace('if not changed.wait_for(lambda: idle or places, timeout)', "
            "'if not (idle or places): changed.wait(timeout)\\n            if not (idle or places)')",
        ),
        (
            "restarted",
            "SOLUTION.replace('if not changed.wait_for(lambda: idle or places, timeout)', "
            "'while not (idle or places):\\n              if not changed.wait(timeout)')",
        ),
        ("failure", "SOLUTION.replace('places += 1', 'pass')"),
        ("failure", "SOLUTION.replace('places += 1\\n                changed.notify()', 'places += 1')"),
        ("failure", "SOLUTION.replace('            raise\\n', '            return None\\n')"),
        (
            "under-lock",
            """
            def make_pool(connect, size):
                idle, opened, changed = [], 0, Condition()
                def get(timeout):
                    nonlocal opened
                    with changed:
                        if not changed.wait_for(lambda: idle or opened < size, timeout): raise TimeoutError
                        if idle: return idle.pop()
                        connection = connect()
                        opened += 1
                        return connection
                def put(connection):
                    with changed:
                        idle.append(connection)
                        changed.notify()
                return get, put
        """,
        ),
        ("other", "def make_pool(connect, size): return connect"),
        ("other", "def make_pool(connect, size): return connect(), size"),
        ("other", "SOLUTION.replace('return connect()', 'return [connect()]')"),
    ],
}

# Right code that isn't written like the solution.
RIGHT: dict[str, list[str]] = {
    "01-footprint": [
        """
        def footprint(groups):
            sums = [0, 0.0, 0]
            for pages, processes in groups:
                sums[0] += 4 * pages
                sums[1] += 4 * pages / processes
                if processes < 2:
                    sums[2] += 4 * pages
            return sums
        """,
    ],
    "01-slope": [
        """
        def per_thread(points):
            slopes = []
            for a in points:
                for b in points:
                    if a[0] < b[0]:
                        slopes.append((b[1] - a[1]) / (b[0] - a[0]))
            slopes.sort()
            return (slopes[(len(slopes) - 1) // 2] + slopes[len(slopes) // 2]) / 2
        """,
    ],
    "01-add-fetched": [
        """
        def add_fetched(counter, lock, fetch):
            amount = fetch()
            while not lock.acquire(timeout=1):
                pass
            try:
                total = counter.value
                counter.value = total + amount
            finally:
                lock.release()
            return counter.value
        """,
    ],
    "01-run-in-child": [
        """
        def run_in_child(function):
            source, sink = os.pipe()
            if not (child := os.fork()):
                code = 1
                try:
                    os.write(sink, pickle.dumps(function()))
                    code = 0
                except Exception as error:
                    os.write(sink, str(error).encode())
                finally:
                    os._exit(code)
            os.close(sink)
            parts = []
            while part := os.read(source, 4096):
                parts.append(part)
            os.close(source)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                raise RuntimeError(signal.Signals(os.WTERMSIG(status)).name)
            if os.WEXITSTATUS(status):
                raise RuntimeError(b"".join(parts).decode())
            return pickle.loads(b"".join(parts))
        """,
    ],
    "02-most-at-once": [
        """
            def most_at_once(intervals):
                return max((sum(begin <= now < end for begin, end in intervals) for now, _ in intervals), default=0)
        """,
    ],
    "02-few-at-once": [
        """
            async def cook_all(dishes, places):
                waiting, done = list(enumerate(dishes)), {}
                async def work():
                    while waiting:
                        place, dish = waiting.pop(0)
                        done[place] = await dish()
                await asyncio.gather(*(work() for _ in range(places)))
                return [done[place] for place in range(len(dishes))]
        """,
        """
            async def cook_all(dishes, places):
                cooking = 0
                async def cook(dish):
                    nonlocal cooking
                    while cooking >= places: await asyncio.sleep(0)
                    cooking += 1
                    try: return await dish()
                    finally: cooking -= 1
                return await asyncio.gather(*map(cook, dishes))
        """,
    ],
    "04-switch-interval": [
        """
            class switch_interval:
                def __init__(self, seconds): self.seconds = seconds
                def __enter__(self):
                    self.before = sys.getswitchinterval()
                    sys.setswitchinterval(self.seconds)
                def __exit__(self, *_): sys.setswitchinterval(self.before)
        """,
    ],
    "04-once": [
        """
            def once_per_key(create):
                made, locks = {}, {}
                def get(key):
                    if key not in made:
                        with locks.setdefault(key, Lock()):
                            if key not in made: made[key] = create(key)
                    return made[key]
                return get
        """,
        """
            from concurrent.futures import Future
            def once_per_key(create):
                made, guard = {}, Lock()
                def get(key):
                    with guard:
                        mine = key not in made
                        future = made.setdefault(key, Future())
                    if mine:
                        try: future.set_result(create(key))
                        except Exception as error:
                            del made[key]
                            future.set_exception(error)
                    return future.result()
                return get
        """,
    ],
    "05-page": [
        """
        def round_trips(protocol, requests, connections, tls):
            opening, longest = [1, 2][tls], -(-requests // connections)
            ways = {"HTTP/1.0": longest * opening + longest, "HTTP/1.1": opening + longest}
            return ways.get(protocol, opening + 1)
        """,
    ],
    "05-farthest": [
        """
        def farthest(points, budget):
            x, y = (sum(values) / len(points) for values in zip(*points))
            k = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
            place = x + (budget - y) / k
            return place if place >= 0 else None
        """,
    ],
    "05-message": [
        """
        def read_message(sock):
            head = read(sock, 5)
            if not head: return None
            if len(head) < 5: raise EOFError
            kind, size = struct.unpack("!cI", head)
            body = read(sock, size - 4)
            if len(body) < size - 4: raise EOFError
            return kind, body

        def read(sock, size):
            got = bytearray()
            while len(got) < size and (piece := sock.recv(size - len(got))): got += piece
            return bytes(got)
        """,
        """
        def read_message(sock):
            from socket import MSG_WAITALL
            if not (kind := sock.recv(1)): return None
            head = sock.recv(4, MSG_WAITALL)
            if len(head) < 4: raise EOFError
            size = int.from_bytes(head, "big") - 4
            body = sock.recv(size, MSG_WAITALL)
            if len(body) < size: raise EOFError
            return kind, body
        """,
        """
        def read_message(sock):
            def one():
                byte = sock.recv(1)
                if not byte: raise EOFError
                return byte
            try: kind = one()
            except EOFError: return None
            size = struct.unpack("!i", b"".join(one() for _ in range(4)))[0] - 4
            return kind, b"".join(one() for _ in range(size))
        """,
    ],
    "05-frame": [
        """
        def frame(text, key):
            data = bytearray(text, "utf-8")
            made = bytearray([0x81])
            for limit, mark, size in ((126, None, 1), (1 << 16, 126, 2), (1 << 64, 127, 8)):
                if len(data) < limit:
                    made += (b"" if mark is None else bytes([mark])) + len(data).to_bytes(size, "big")
                    break
            made[1] |= 0x80
            for place in range(len(data)): data[place] ^= key[place & 3]
            return made + key + data
        """,
    ],
    "06-next-wait": [
        "def next_wait(ready, timers, now): return 0.0 if ready else max(min(timers) - now, 0) if timers else None",
    ],
    "06-by-hand": [
        """
            def drive(coroutine, answer):
                try:
                    request = coroutine.send(None)
                    while True:
                        try: value = answer(request)
                        except Exception as error: request = coroutine.throw(error)
                        else: request = coroutine.send(value)
                except StopIteration as end:
                    return end.value
        """,
    ],
    "06-slices": [
        """
            async def in_slices(steps, seconds, clock):
                results, until = [], clock() + seconds
                for step in steps:
                    if clock() >= until:
                        await asyncio.sleep(0)
                        until = clock() + seconds
                    results += [step()]
                return results
        """,
        """
            async def in_slices(steps, seconds, clock):
                results, worked = [], 0
                for step in steps:
                    began = clock()
                    results.append(step())
                    worked += clock() - began
                    if worked >= seconds:
                        worked = await asyncio.sleep(0, 0)
                return results
        """,
    ],
    "06-first-answer": [
        """
            async def first_answer(coroutines, seconds):
                tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
                try:
                    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                    if not done:
                        raise TimeoutError
                    return await done.pop()
                finally:
                    for task in tasks: task.cancel()
                    await asyncio.wait(tasks)
        """,
        """
            async def first_answer(coroutines, seconds):
                tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
                try:
                    return await next(iter(asyncio.as_completed(tasks, timeout=seconds)))
                finally:
                    [task.cancel() for task in tasks]
                    await asyncio.gather(*tasks, return_exceptions=True)
        """,
    ],
    "07-burst": [
        """
            def burst(clients, threads, queue, service_ms):
                turned_away = max(0, clients - threads - queue)
                left, wait = clients - turned_away, 0
                while left > threads:
                    left, wait = left - threads, wait + service_ms
                return turned_away, wait
        """,
    ],
    "07-accept": [
        """
            def accept_all(listener):
                found = []
                try:
                    while True:
                        try:
                            found.append(listener.accept()[0])
                            found[-1].settimeout(0)
                        except ConnectionAbortedError: pass
                except BlockingIOError: return tuple(found), 0
                except OSError as error:
                    if error.errno in {errno.EMFILE, errno.ENFILE}: return found, 1
                    raise
        """,
    ],
    "07-deadline": [
        """
            def read_head(sock, seconds, limit, clock):
                until, got = clock() + seconds, bytearray()
                while (at := got.find(b"\\r\\n\\r\\n")) < 0:
                    if len(got) > limit: raise ValueError
                    if (left := until - clock()) <= 0: raise TimeoutError
                    sock.settimeout(left)
                    if not (piece := sock.recv(4096)): raise EOFError
                    got += piece
                return bytes(got[:at]), bytes(got[at + 4:])
        """,
    ],
    "07-frames": [
        """
            def frame_reader(limit):
                def reading():
                    kept, frames = b"", []
                    def need(size):
                        nonlocal kept, frames
                        while len(kept) < size:
                            kept += yield frames
                            frames = []
                        part, kept = kept[:size], kept[size:]
                        return part
                    while True:
                        first, second = yield from need(2)
                        size = second & 127
                        if size > 125: size = int.from_bytes((yield from need(2 if size == 126 else 8)), "big")
                        if second < 128 or size > limit: raise ValueError
                        key = yield from need(4)
                        payload = yield from need(size)
                        frames = [*frames, (first & 15, bytes(b ^ key[i & 3] for i, b in enumerate(payload)))]
                reader = reading()
                reader.send(None)
                return reader.send
        """,
    ],
    "08-size-by-law": [
        "def pool_size(rate, hold_ms, utilisation): return -int(-rate * hold_ms / 1000 / utilisation // 1)",
        "def pool_size(rate, hold_ms, utilisation): return math.ceil(rate / utilisation * (hold_ms / 1000))",
        "def pool_size(rate, hold_ms, utilisation): return math.ceil(rate * hold_ms / 1000 / utilisation)",
    ],
    "08-fleet": [
        """
            def pool_sizes(services, max_connections, reserve):
                wanted = 0
                for instances, each in services.values():
                    wanted += instances * each
                share = min(1, (max_connections - reserve) / wanted)
                sizes = {}
                for name in services:
                    sizes[name] = int(share * services[name][1])
                    if not sizes[name]:
                        raise ValueError(name)
                return sizes
        """,
    ],
    "08-borrowed": [
        """
            class borrowed:
                def __init__(self, pool): self.pool = pool
                def __enter__(self):
                    self.connection = self.pool.get()
                    return self.connection
                def __exit__(self, *_):
                    try:
                        if not self.connection.broken:
                            self.connection.rollback()
                    finally:
                        give_back = self.pool.drop if self.connection.broken else self.pool.put
                        give_back(self.connection)
        """,
        """
            from contextlib import ExitStack
            @contextmanager
            def borrowed(pool):
                with ExitStack() as last:
                    connection = pool.get()
                    last.callback(lambda: (pool.drop if connection.broken else pool.put)(connection))
                    last.callback(lambda: connection.broken or connection.rollback())
                    yield connection
        """,
    ],
    "08-pool": [
        """
            from queue import Empty, LifoQueue
            def make_pool(connect, size):
                places = LifoQueue()
                for _ in range(size): places.put(None)
                def get(timeout):
                    try: connection = places.get(timeout=timeout)
                    except Empty: raise TimeoutError from None
                    if connection is not None: return connection
                    try: return connect()
                    except: places.put(None); raise
                return get, places.put
        """,
        """
            from collections import deque
            from threading import Semaphore
            def make_pool(connect, size):
                idle, free = deque(), Semaphore(size)
                def get(timeout):
                    if not free.acquire(timeout=timeout): raise TimeoutError
                    try: return idle.pop()
                    except IndexError: pass
                    try: return connect()
                    except Exception:
                        free.release()
                        raise
                def put(connection):
                    idle.append(connection)
                    free.release()
                return get, put
        """,
        """
            from collections import deque
            from threading import Event, Lock
            def make_pool(connect, size):  # first come, first served, by handing over
                idle, waiting, lock, places = [], deque(), Lock(), size
                def give(what):
                    with lock:
                        if waiting:
                            ticket = waiting.popleft()
                            ticket.append(what)
                            ticket[0].set()
                        else: idle.append(what)
                def get(timeout):
                    nonlocal places
                    with lock:
                        if idle: connection = idle.pop()
                        elif places: places, connection = places - 1, None
                        else:
                            connection, ticket = None, [Event()]
                            waiting.append(ticket)
                            lock.release()
                            try: ticket[0].wait(timeout)
                            finally: lock.acquire()
                            if len(ticket) == 1:
                                waiting.remove(ticket)
                                raise TimeoutError
                            connection = ticket[1]
                    if connection: return connection
                    try: return connect()
                    except Exception:
                        give(None)
                        raise
                return get, give
        """,
    ],
}


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELPERS_LEDGER", str(tmp_path / "ledger.sqlite"))


def defined(exercise: content.Exercise, code: str) -> Callable[..., Any]:
    """The learner's function as their cell would define it."""
    names: dict[str, Any] = {"check": lambda id, function: None}
    exec(exercise.stub, names)  # its imports
    names["sleep"] = time.sleep
    exec(code, names)
    return names[exercise.function_name]


def wrong_code(exercise: content.Exercise, code: str) -> str:
    if code.startswith("SOLUTION"):
        changed: str = eval(code, {"SOLUTION": exercise.solution})
        assert changed != exercise.solution
        return changed
    return textwrap.dedent(code)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_the_solution_passes_every_time_and_is_kept(exercise: content.Exercise) -> None:
    for _ in range(5):
        outcome = check(exercise.id, defined(exercise, exercise.solution))
        assert outcome.passed, outcome
    assert "✓ Passed." in outcome._repr_html_() and outcome.trouble is None
    assert ledger().answers("exercise") == {exercise.id: True}


@pytest.mark.parametrize(("id", "code"), [(id, code) for id, cases in RIGHT.items() for code in cases])
def test_other_right_code_passes_too(id: str, code: str) -> None:
    for _ in range(5):
        outcome = check(id, defined(content.exercise(id), textwrap.dedent(code)))
        assert outcome.passed, outcome


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_the_stub_runs_and_fails_kindly(exercise: content.Exercise) -> None:
    outcomes = []
    exec(exercise.stub, {"check": lambda id, function: outcomes.append(check(id, function))})
    (outcome,) = outcomes
    assert (outcome.passed, outcome.mistake) == (False, "empty")
    assert repr(outcome).startswith("Not yet.") and "Error" not in repr(outcome)
    assert ledger().answers("exercise") == {}


@pytest.mark.parametrize(
    ("id", "hint", "code"), [(id, hint, code) for id, cases in WRONG.items() for hint, code in cases]
)
def test_wrong_code_gets_the_hint_for_its_mistake(id: str, hint: str, code: str) -> None:
    exercise = content.exercise(id)
    for seconds in (2, 20):  # some are to be stopped by the time limit, some before, however busy the machine
        outcome = check(id, defined(exercise, wrong_code(exercise, code)), seconds=seconds)
        if outcome.mistake == hint:
            break
    assert (outcome.passed, outcome.mistake) == (False, hint), outcome
    assert exercise.hints[hint] in outcome.message
    assert ledger().answers("exercise") == {}


def test_every_hint_is_given_for_some_mistake() -> None:
    for exercise in EXERCISES:
        given = {hint for hint, _ in WRONG[exercise.id]}
        assert set(exercise.hints) - given <= {"other", "deadlock"}, exercise.id


def test_what_the_learners_code_raises_is_told_with_their_line(tmp_path: Path) -> None:
    cell = tmp_path / "cell.py"
    cell.write_text("def random_cycle(n):\n    return 1 / 0\n")
    names: dict[str, Any] = {}
    exec(compile(cell.read_text(), str(cell), "exec"), names)
    outcome = check("03-cycle", names["random_cycle"])
    assert not outcome.passed
    assert outcome.message == "Your line 2, `return 1 / 0`, raised `ZeroDivisionError: division by zero`."


def _exits(n: int) -> None:
    raise SystemExit(3)


def _unfinished(n: int) -> None:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (None, "Hand over the function itself"),
        ([1, 0], "Hand over the function itself"),
        (lambda: [], "Does it take the arguments that the task names?"),
        (_exits, "SystemExit: 3"),
        (_unfinished, "returns nothing so far"),
    ],
)
def test_whatever_is_handed_over_gets_an_answer(function: Any, words: str) -> None:
    outcome = check("03-cycle", function)
    assert not outcome.passed and words in outcome.message


def test_an_endless_loop_is_stopped() -> None:
    def random_cycle(n: int) -> None:
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    start = time.monotonic()
    outcome = check("03-cycle", random_cycle, seconds=0.3)
    assert time.monotonic() - start < 3
    assert outcome.mistake == "too-long" and "still running after 0.3 s" in outcome.message


def test_off_the_main_thread_a_check_still_answers() -> None:
    outcomes: list[exercises.Outcome] = []
    solution = defined(content.exercise("03-cycle"), content.exercise("03-cycle").solution)
    thread = threading.Thread(target=lambda: outcomes.append(check("03-cycle", solution)))
    thread.start()
    thread.join(10)
    assert outcomes[0].passed


def test_a_deadlocked_ping_pong_is_ended_and_leaves_nothing_behind() -> None:
    exercise = content.exercise("03-ping-pong")
    both_read_first = exercise.solution.replace(
        'os.write(there[1], b"x")\n        got += len(os.read(back[0], 1))',
        'got += len(os.read(back[0], 1))\n        os.write(there[1], b"x")',
    )
    assert both_read_first != exercise.solution
    threads, pipes, functions = threading.active_count(), _open(), (os.pipe, os.read, os.write, threading.excepthook)
    outcome = check(exercise.id, defined(exercise, both_read_first), seconds=0.3)
    assert outcome.mistake == "too-long" and exercise.hints["deadlock"] in outcome.message
    assert threading.active_count() == threads
    assert _open() == pipes
    assert functions == (os.pipe, os.read, os.write, threading.excepthook)


def test_a_child_that_never_ends_is_ended_and_leaves_nothing_behind() -> None:
    exercise = content.exercise("01-run-in-child")
    endless = exercise.solution.replace("answer = pickle.dumps((True, function()))", "sleep(60)")
    assert endless != exercise.solution
    children, pipes, functions = _children(), _open(), (os.pipe, os.fork, os.waitpid, os._exit)
    outcome = check(exercise.id, defined(exercise, endless), seconds=0.3)
    assert outcome.mistake == "too-long" and exercise.hints["deadlock"] in outcome.message
    assert (_children(), _open()) == (children, pipes)
    assert functions == (os.pipe, os.fork, os.waitpid, os._exit)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("line", ["while True: pass", "while True: await asyncio.sleep(1)", "await asyncio.Future()"])
def test_a_coroutine_that_never_ends_is_ended(line: str) -> None:
    threads, pipes = threading.active_count(), _open()
    code = f"async def cook_all(dishes, places):\n    {line}"
    outcome = check("02-few-at-once", defined(content.exercise("02-few-at-once"), code), seconds=0.3)
    assert outcome.mistake == "too-long"
    assert (threading.active_count(), _open()) == (threads, pipes)


def test_a_check_works_beside_a_running_event_loop() -> None:
    exercise = content.exercise("02-few-at-once")

    async def cell() -> exercises.Outcome:
        return check(exercise.id, defined(exercise, exercise.solution))

    outcome = asyncio.run(cell())
    assert outcome.passed, outcome


def test_the_switch_interval_is_as_before_after_a_check_whatever_the_code_does() -> None:
    before = sys.getswitchinterval()
    exercise = content.exercise("04-switch-interval")
    check(exercise.id, defined(exercise, exercise.solution.replace("sys.setswitchinterval(before)", "pass")))
    assert sys.getswitchinterval() == pytest.approx(before)


def test_pipes_of_other_threads_are_none_of_the_checks_business() -> None:
    done, others = threading.Event(), []

    def busy() -> None:
        while not done.is_set():
            others.append(os.pipe())
            os.write(others[-1][1], b"1234")
            time.sleep(0.005)

    thread = threading.Thread(target=busy)
    thread.start()
    exercise = content.exercise("03-ping-pong")
    outcome = check(exercise.id, defined(exercise, exercise.solution))
    done.set()
    thread.join()
    assert outcome.passed, outcome
    assert all(os.read(read_end, 9) == b"1234" for read_end, _ in others)
    for ends in others:
        for end in ends:
            os.close(end)


def _open() -> set[int]:
    found = set()
    for end in range(256):
        try:
            os.fstat(end)
        except OSError:
            continue
        found.add(end)
    return found


def test_a_pass_that_cannot_be_stored_is_still_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HELPERS_LEDGER", str(tmp_path / "file" / "ledger.sqlite"))
    exercise = content.exercise("03-cycle")
    outcome = check(exercise.id, defined(exercise, exercise.solution))
    assert outcome.passed and outcome.trouble and outcome.trouble[:20] in outcome._repr_html_()
