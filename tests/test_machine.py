"""What the machine is and allows: made-up machines for the arithmetic, the real one for the truth."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import machine

ROOT = Path(__file__).parents[1]
LINUX = sys.platform.startswith("linux")
linux = pytest.mark.skipif(not LINUX, reason="reads Linux's /proc")
Tree = Callable[..., None]
MANY = 10**6
NEEDS = (
    machine.pinning,
    machine.two_cores,
    machine.fork,
    machine.numba,
    machine.proc_counters,
    machine.memory_maps,
    machine.tcp_states,
)

MEMINFO = "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\nSwapTotal: 0 kB\nHugepagesize: 2048 kB\n"
MOUNT_V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
MOUNT_V1 = "".join(
    f"{n} 31 0:{n} / /sys/fs/cgroup/{name} rw,relatime - cgroup cgroup rw,{name}\n"
    for n, name in enumerate(("memory", "cpu,cpuacct", "pids"), start=40)
)
LINES_OF_CPUINFO = "processor\t: 0\nmodel name\t: Imaginary 9000\nflags\t\t: fpu {flag}\nclflush size\t: 64\n"


def forget() -> None:
    machine._card.cache_clear()
    machine._sysctl.cache_clear()
    machine._mask_before_pinning = None


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Every test meets a module that knows nothing yet, and leaves it so."""
    forget()
    yield
    forget()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A made-up machine: only these files exist; the mask has `allowed`, the limits are `limits` (soft and hard)."""

    def make(files: dict[str, str], allowed: set[int] | None = None, limits: dict[str, Any] | None = None) -> None:
        for path, text in files.items():
            place = tmp_path / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        monkeypatch.setattr(machine, "_ROOT", str(tmp_path))
        monkeypatch.setattr(machine, "_SYSTEM", "linux")
        monkeypatch.setattr(machine, "_rlimit", lambda name: (limits or {}).get(name, (None, None)))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed or {0, 1}, raising=False)
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        forget()

    return make


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows looks to Python, with psutil not installed."""
    monkeypatch.setattr(machine, "_ROOT", str(tmp_path / "nowhere"))
    monkeypatch.setattr(machine, "_SYSTEM", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setitem(sys.modules, "psutil", None)
    for name in (
        "sched_getaffinity",
        "sched_setaffinity",
        "fork",
        "uname",
        "statvfs",
        "sysconf",
        "getuid",
        "getloadavg",
    ):
        monkeypatch.delattr(os, name, raising=False)
    machine._ticks.cache_clear()


def run_python(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def unknown() -> dict[str, str]:
    reasons = machine.card()["unknown"]
    assert isinstance(reasons, dict)
    return reasons


# This machine


def test_card_survives_json_and_is_flat() -> None:
    card = machine.card()
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert set(card) == {*machine._FACTS, "unknown"}
    for key, reason in unknown().items():
        assert card[key] is None
        assert reason and "\n" not in reason


def test_card_is_a_copy() -> None:
    machine.card()["cores_online"] = -1
    unknown()["system"] = "spoilt"
    caches = machine.card()["caches"]
    if isinstance(caches, list):
        caches.clear()
        assert machine.card()["caches"]
    assert machine.card()["cores_online"] != -1
    assert "system" not in unknown()


def test_card_agrees_with_others() -> None:
    psutil = pytest.importorskip("psutil", reason="install: pip install psutil")
    card = machine.card()
    assert card["cores_online"] == os.cpu_count()
    assert card["memory_bytes"] == psutil.virtual_memory().total
    assert card["page_bytes"] == os.sysconf("SC_PAGESIZE")
    assert card["descriptors_soft"] == machine._rlimit("RLIMIT_NOFILE")[0]
    assert card["swap_bytes"] == psutil.swap_memory().total
    assert 0 < card["memory_available_bytes"] < card["memory_bytes"]  # type: ignore[operator]
    assert card["python_version"] == sys.version.split()[0]
    assert 1 <= card["cores_usable"] <= card["cores_online"] or card["cores_usable"] > 0  # type: ignore[operator]
    assert card["clock_overhead_ns"] > 1  # type: ignore[operator]


@linux
def test_card_agrees_with_getconf() -> None:
    def getconf(name: str) -> int:
        done = subprocess.run(["getconf", name], capture_output=True, text=True)
        return int(done.stdout.strip() or 0) if done.stdout.strip().isdecimal() else 0

    card = machine.card()
    assert getconf("PAGESIZE") in (0, card["page_bytes"])
    assert getconf("_NPROCESSORS_ONLN") in (0, card["cores_online"])
    caches: Any = card["caches"] or []
    sizes = [one["bytes"] for one in caches if (one["level"], one["kind"]) == (1, "data")]
    assert not sizes or getconf("LEVEL1_DCACHE_SIZE") in (0, *sizes)
    assert getconf("LEVEL1_DCACHE_LINESIZE") in (0, card["cache_line_bytes"])


def test_python_facts_are_those_of_the_card() -> None:
    facts, card = machine.python_facts(), machine.card()
    assert facts == {name: card[name] for name in facts}
    assert {"python_version", "gil", "free_threaded_build"} <= set(facts)


def test_card_names_no_host_user_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret-user"
    secret.mkdir()
    for name in ("HOME", "TMPDIR", "USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(name, str(secret))
    if hasattr(os, "uname"):
        real = os.uname()
        fake = SimpleNamespace(sysname=real.sysname, release=real.release, version=real.version, nodename="secret-host")
        monkeypatch.setattr(os, "uname", lambda: fake)
    text = json.dumps([machine.card(), machine.describe()])
    assert "secret" not in text
    assert str(Path.home()) not in text
    assert sys.prefix not in text


def test_describe_has_a_row_for_everything() -> None:
    rows = dict(machine.describe())
    assert {"Processor", "Cores", "Caches", "Memory", "Python"} <= set(rows)
    assert all(rows.values())
    assert f"{machine.card()['cores_online']} core" in rows["Cores"]


def test_import_is_light_and_needs_the_standard_library_alone() -> None:
    loaded = run_python("import sys; sys.path.insert(0, '.'); import helpers.machine; print(*sys.modules)", "-I", "-S")
    heavy = {"subprocess", "ctypes", "platform", "statistics", "pathlib", "json", "tempfile", "psutil", "threading"}
    heavy |= {"dataclasses", "inspect", "concurrent.futures", "asyncio", "shutil"}
    assert not heavy & set(loaded.split())
    tops = {name.partition(".")[0] for name in loaded.split()} - {"helpers", "__main__"}
    assert tops <= set(sys.stdlib_module_names)


# Made-up machines


def test_nothing_to_read(tree: Tree) -> None:
    tree({})
    card = machine.card()
    for key in ("cpu_model", "caches", "memory_bytes", "memory_available_bytes", "ports", "virtualisation"):
        assert card[key] is None
        assert key in unknown()
    assert card["memory_limit_bytes"] is None
    assert "memory_limit_bytes" not in unknown()
    assert card["cores_usable"] == 2
    assert dict(machine.describe())["Processor"].startswith("unknown: ")
    assert machine.fit(MANY, bytes_each=MANY, descriptors_each=1, threads_each=1, processes_each=1, ports_each=1) == (
        MANY,
        None,
    )
    assert machine.activity().busy_s is None


def test_memory_of_a_machine_without_groups(tree: Tree) -> None:
    tree({"/proc/meminfo": MEMINFO})
    card = machine.card()
    assert card["memory_bytes"] == 8 * 2**30
    assert card["memory_available_bytes"] == 4 * 2**30
    assert card["memory_limit_bytes"] is None
    assert card["swap_bytes"] == 0
    assert card["huge_page_bytes"] == 2 * 2**20
    assert dict(machine.describe())["Memory"] == "8 GiB, 4 GiB available, no swap"


def test_groups_version_2_nested(tree: Tree) -> None:
    """The innermost says "max"; the limits are further up."""
    tree(
        {
            "/proc/meminfo": MEMINFO,
            "/proc/self/cgroup": "0::/work.slice/job/inner\n",
            "/proc/self/mountinfo": MOUNT_V2,
            "/sys/fs/cgroup/work.slice/job/inner/memory.max": "max\n",
            "/sys/fs/cgroup/work.slice/job/inner/cpu.max": "max 100000\n",
            "/sys/fs/cgroup/work.slice/job/memory.max": f"{2**30}\n",
            "/sys/fs/cgroup/work.slice/job/memory.current": f"{600 * 2**20}\n",
            "/sys/fs/cgroup/work.slice/job/memory.stat": f"anon 5\ninactive_file {100 * 2**20}\n",
            "/sys/fs/cgroup/work.slice/job/cpu.max": "150000 100000\n",
            "/sys/fs/cgroup/work.slice/memory.max": f"{3 * 2**30}\n",
            "/sys/fs/cgroup/work.slice/pids.max": "100\n",
            "/sys/fs/cgroup/work.slice/pids.current": "20\n",
        },
        allowed={0, 1, 2, 3},
    )
    card = machine.card()
    assert card["memory_limit_bytes"] == 2**30
    assert card["memory_available_bytes"] == 524 * 2**20  # what the group holds in clean file pages can be dropped
    assert card["cores_usable"] == 1.5
    assert card["threads_max"] == card["processes_max"] == 100
    assert machine.fit(MANY, processes_each=1).count == 100 - 20 - machine._SPARE_TASKS
    assert machine.fit(MANY, bytes_each=2**20).count == 262
    assert "1.5 cores' time" in (machine.two_cores() or "")


def test_groups_version_1(tree: Tree) -> None:
    """Each controller has a tree of its own; no limit is a number near 2**63, or -1."""
    tree(
        {
            "/proc/meminfo": MEMINFO,
            "/proc/self/cgroup": "4:memory:/a/b\n3:pids:/\n2:cpu,cpuacct:/a\n1:name=systemd:/\n",
            "/proc/self/mountinfo": MOUNT_V1,
            "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{2**31}\n",
            "/sys/fs/cgroup/memory/a/memory.usage_in_bytes": f"{2**30}\n",
            "/sys/fs/cgroup/memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {2**29}\n",
            "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n",
            "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "/sys/fs/cgroup/pids/pids.max": "max\n",
        }
    )
    card = machine.card()
    assert card["memory_limit_bytes"] == 2**31
    assert card["memory_available_bytes"] == 2**31 - 2**29
    assert card["cores_usable"] == 0.5
    assert card["threads_max"] is None
    assert "threads_max" not in unknown()


def test_groups_of_a_container_that_sees_the_host_names(tree: Tree) -> None:
    """Without a namespace of its own, the group's name is the host's and its folder is mounted at the top."""
    tree(
        {
            "/proc/meminfo": MEMINFO,
            "/proc/self/cgroup": "4:memory:/docker/0abc\n",
            "/proc/self/mountinfo": "40 31 0:29 /docker/0abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**30}\n",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes": "0\n",
        }
    )
    assert machine.card()["memory_limit_bytes"] == 2**30


def test_caches(tree: Tree) -> None:
    files = {"/sys/devices/system/cpu/online": "0-3,6\n", "/proc/cpuinfo": LINES_OF_CPUINFO.format(flag="")}
    told = (
        ("1", "Data", "32K", "0"),
        ("1", "Instruction", "64K", "0"),
        ("2", "Unified", "512K", "0,4"),
        ("3", "Unified", "32M", "0-7"),
    )
    for index, (level, kind, size, shared) in enumerate(told):
        folder = f"/sys/devices/system/cpu/cpu0/cache/index{index}"
        files |= {f"{folder}/level": level, f"{folder}/type": kind, f"{folder}/size": size}
        files |= {f"{folder}/shared_cpu_list": shared, f"{folder}/coherency_line_size": "128\n"}
    files["/sys/devices/system/cpu/cpu0/cache/index9/level"] = "none"
    tree(files)
    rows, card = dict(machine.describe()), machine.card()
    assert rows["Caches"] == (
        "L1 data 32 KiB, L1 instruction 64 KiB, L2 512 KiB shared by 2, L3 32 MiB shared by 8; lines of 128 bytes"
    )
    assert card["cache_line_bytes"] == 128
    assert card["cores_online"] == 5
    assert rows["Cores"] == "5 cores (0, 1 allowed)"
    assert rows["Processor"] == "Imaginary 9000"


def test_one_core(tree: Tree) -> None:
    tree({"/sys/devices/system/cpu/online": "0\n"}, allowed={0})
    assert machine.cores() == (0,)
    assert dict(machine.describe())["Cores"] == "1 core (0 allowed)"
    assert "there is one core" in (machine.two_cores() or "")


def test_one_core_of_many(tree: Tree) -> None:
    tree({"/sys/devices/system/cpu/online": "0-7\n"}, allowed={5})
    assert machine.cores() == (5,)
    assert "taskset" in (machine.two_cores() or "")


@pytest.mark.parametrize(
    ("said", "files"),
    [
        ("none", {"/proc/cpuinfo": LINES_OF_CPUINFO.format(flag="sse"), "/sys/class/dmi/id/sys_vendor": "QEMU"}),
        (
            "kvm",
            {"/proc/cpuinfo": LINES_OF_CPUINFO.format(flag="hypervisor"), "/sys/class/dmi/id/sys_vendor": "QEMU\n"},
        ),
        ("virtual machine", {"/proc/cpuinfo": LINES_OF_CPUINFO.format(flag="hypervisor")}),
        ("xen", {"/proc/cpuinfo": LINES_OF_CPUINFO.format(flag="hypervisor"), "/sys/hypervisor/type": "xen\n"}),
        (
            "hyper-v",
            {
                "/proc/cpuinfo": LINES_OF_CPUINFO.format(flag="hypervisor"),
                "/sys/class/dmi/id/sys_vendor": "Microsoft Corporation\n",
                "/sys/class/dmi/id/product_name": "Virtual Machine\n",
            },
        ),
        ("container: docker", {"/proc/cpuinfo": LINES_OF_CPUINFO.format(flag=""), "/.dockerenv": ""}),
        ("container: podman", {"/proc/cpuinfo": LINES_OF_CPUINFO.format(flag=""), "/run/.containerenv": ""}),
        ("container: kubernetes", {"/proc/cpuinfo": "x", "/proc/1/cgroup": "0::/kubepods.slice/x"}),
        ("container: lxc", {"/proc/cpuinfo": "x", "/run/systemd/container": "lxc\n"}),
        (  # a machine whose disk was made from a container's image is a machine all the same
            "kvm",
            {
                "/proc/cpuinfo": LINES_OF_CPUINFO.format(flag="hypervisor"),
                "/sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc kvm-clock\n",
                "/.dockerenv": "",
                "/proc/2/comm": "kthreadd\n",
                "/proc/self/mountinfo": "24 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n",
            },
        ),
        (
            "container: docker",
            {
                "/proc/cpuinfo": "x",
                "/.dockerenv": "",
                "/proc/2/comm": "kthreadd\n",
                "/proc/self/mountinfo": "24 1 0:52 / / rw,relatime - overlay overlay rw\n",
            },
        ),
    ],
)
def test_virtualisation(tree: Tree, said: str, files: dict[str, str]) -> None:
    tree(files)
    assert machine.card()["virtualisation"] == said


def test_wsl(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree({"/proc/cpuinfo": LINES_OF_CPUINFO.format(flag="hypervisor")})
    release = "5.15.90.1-microsoft-standard-WSL2"
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(sysname="Linux", release=release), raising=False)
    assert machine.card()["virtualisation"] == "WSL"


def test_windows(windows: None) -> None:
    card = machine.card()
    assert card["system"] == "Windows"
    assert "psutil" in unknown()["memory_bytes"]
    assert "Windows" in unknown()["descriptors_soft"]
    assert {"threads_max", "processes_max", "ports", "caches", "virtualisation"} <= set(unknown())
    assert card["cores_online"] == os.cpu_count() == len(machine.cores())
    assert not machine.pin(0)
    with machine.pinned(0) as done:
        assert not done
    assert "wsl --install" in (machine.pinning() or "")
    assert "Windows has no fork" in (machine.fork() or "")
    assert machine.proc_counters() is not None
    assert machine.raise_descriptor_limit() == sys.maxsize
    assert machine.fit(5, descriptors_each=1, threads_each=1, bytes_each=1) == (5, None)
    now = machine.activity()
    assert (now.busy_s, now.stolen_s, now.voluntary, now.load_average) == (None, None, None, None)
    assert now.own_cpu_s > 0
    assert machine.describe()


def test_windows_with_psutil(windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(
        virtual_memory=lambda: SimpleNamespace(total=2**34, available=2**33),
        swap_memory=lambda: SimpleNamespace(total=0),
        cpu_times=lambda: SimpleNamespace(user=3.0, system=1.0, idle=7.0, interrupt=0.5, dpc=0.25),
        Process=lambda: SimpleNamespace(cpu_affinity=lambda: [0, 2]),
    )
    monkeypatch.setitem(sys.modules, "psutil", fake)
    card = machine.card()
    assert (card["memory_bytes"], card["memory_available_bytes"], card["cores_allowed"]) == (2**34, 2**33, [0, 2])
    now = machine.activity()
    assert (now.busy_s, now.idle_s, now.stolen_s) == (4.75, 7.0, None)
    assert machine.fit(MANY, bytes_each=2**30).count == 4


def test_macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "machdep.cpu.brand_string": "Apple M9",
        "hw.memsize": 2**34,
        "hw.cachelinesize": 128,
        "hw.l1dcachesize": 65536,
        "hw.perflevel0.l1dcachesize": 131072,
        "hw.perflevel0.l2cachesize": 2**24,
        "hw.perflevel0.cpusperl2": 4,
        "kern.hv_vmm_present": 0,
        "kern.maxproc": 4000,
        "kern.num_taskthreads": 4096,
        "net.inet.ip.portrange.first": 49152,
        "net.inet.ip.portrange.last": 65535,
    }
    monkeypatch.setattr(machine, "_SYSTEM", "darwin")
    monkeypatch.setattr(machine, "_ROOT", str(tmp_path))
    monkeypatch.setattr(machine, "_ask", lambda *_: "\n".join(f"{name}: {value}" for name, value in said.items()))
    monkeypatch.setattr(machine, "_rlimit", lambda name: (256, None) if name == "RLIMIT_NOFILE" else (2666, 4000))
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    card = machine.card()
    assert (card["system"], card["cpu_model"], card["memory_bytes"]) == ("macOS", "Apple M9", 2**34)
    assert (card["ports"], card["cache_line_bytes"], card["virtualisation"]) == ([49152, 65535], 128, "none")
    assert (card["processes_max"], card["threads_max"], card["pinning"]) == (2666, 2666, False)
    assert card["caches"] == [
        {"level": 1, "kind": "data", "bytes": 131072, "shared_by": 1},
        {"level": 2, "kind": "unified", "bytes": 2**24, "shared_by": 4},
    ]
    assert card["transparent_huge_pages"] is None
    assert "macOS has none" in unknown()["transparent_huge_pages"]
    assert "macOS doesn't let Python choose cores" in (machine.pinning() or "")


PATHS = [
    *(f"/proc/{name}" for name in ("meminfo", "cpuinfo", "stat", "loadavg", "1/cgroup", "2/comm", "net/sockstat")),
    *(f"/proc/self/{name}" for name in ("cgroup", "mountinfo", "status", "maps")),
    *(f"/proc/sys/{name}" for name in ("kernel/threads-max", "kernel/pid_max", "vm/max_map_count")),
    "/proc/sys/net/ipv4/ip_local_port_range",
    "/sys/devices/system/cpu/online",
    *(f"/sys/devices/system/cpu/cpu0/cache/index0/{name}" for name in ("level", "type", "size", "shared_cpu_list")),
    "/sys/devices/system/cpu/cpu0/cache/index0/coherency_line_size",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    *(f"/sys/fs/cgroup/{name}" for name in ("memory.max", "memory.current", "memory.stat", "cpu.max", "pids.max")),
    *(f"/sys/fs/cgroup/cpu/{name}" for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")),
    "/sys/class/dmi/id/sys_vendor",
    "/sys/hypervisor/type",
    "/etc/os-release",
    "/run/systemd/container",
]
NUMBERS = st.integers(-(2**70), 2**70) | st.sampled_from([0, 1, 64, 2**31, 2**63 - 4096, 2**63, 10**400, -1])
GARBAGE = (
    st.text(max_size=40)
    | NUMBERS.map(lambda number: f"{number:x}")
    | NUMBERS.map(lambda number: str(number) if abs(number) < 2**80 else "9" * 5000)
    | st.sampled_from(
        ["max", "", "\0", "٣", "0::/../..", "4:memory:/x", "cpu 1 2 3", "cpu  a b c d e f g h", "1 0", "0 0", "- - -"]
    )
    | st.lists(
        st.sampled_from(["MemTotal:", "MemAvailable:", "kB", "\n", " ", "0::/", "cpu", "-", "/", "1", "99999"])
    ).map("".join)
)


@settings(max_examples=150, deadline=None)
@given(files=st.dictionaries(st.sampled_from(PATHS), GARBAGE), soft=st.none() | st.integers(0, 2**64))
def test_garbage_is_never_an_error(files: dict[str, str], soft: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_SYSTEM", "linux")
        patch.setattr(machine, "_read", files.get)
        patch.setattr(machine, "_list", lambda path: ["index0"] if path.endswith("cache") else [])
        patch.setattr(machine, "_exists", lambda path: False)
        patch.setattr(machine, "_rlimit", lambda name: (soft, soft))
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        forget()
        card = machine.card()
        assert json.loads(json.dumps(card, allow_nan=False)) == card
        assert all(isinstance(label, str) and text for label, text in machine.describe())
        machine.activity()
        for need in NEEDS:
            assert "\n" not in (need() or "")
        with contextlib.suppress(machine.TooSmall):
            machine.fit(100, bytes_each=1, descriptors_each=1, processes_each=1, threads_each=1, ports_each=1)


# Cores

two = pytest.mark.skipif(machine.two_cores() is not None or machine.pinning() is not None, reason="needs two cores")


@two
def test_pinned_narrows_and_restores() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    with pytest.raises(KeyError), machine.pinned(core) as done:
        assert done
        assert os.sched_getaffinity(0) == {core}
        assert machine.cores() == tuple(sorted(before))  # what may be used, not where we are
        with machine.pinned(min(before)):
            assert os.sched_getaffinity(0) == {min(before)}
        assert os.sched_getaffinity(0) == {core}
        raise KeyError
    assert os.sched_getaffinity(0) == before


@two
def test_pinned_is_for_one_thread() -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []

    def body() -> None:
        with machine.pinned(min(before)):
            seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [{min(before)}]
    assert os.sched_getaffinity(0) == before


@linux
@pytest.mark.parametrize("wanted", [(), (-1,), (100_000,), (10**30,), (0, 100)])
def test_pin_refuses_what_is_not_there(wanted: tuple[int, ...]) -> None:
    before = os.sched_getaffinity(0)
    assert not machine.pin(*wanted)
    with machine.pinned(*wanted) as done:
        assert not done
    assert os.sched_getaffinity(0) == before


def test_no_pinning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.card()["pinning"] is False
    assert machine.pinning()
    assert len(machine.cores()) == machine.card()["cores_online"]
    with machine.pinned(0) as done:
        assert not done


def test_forbidden_pinning(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbid, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert "forbidden" in (machine.pinning() or "")
    assert not machine.pin(0)


@linux
def test_a_process_on_one_core() -> None:
    code = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from helpers import machine
        print(len(machine.cores()), machine.card()["cores_usable"], machine.two_cores() is not None)
    """
    assert run_python(code) == "1 1.0 True"


# Needs


def test_needs_are_met_or_say_how() -> None:
    for need in NEEDS:
        word = need()
        assert word is None or (len(word) > 20 and "\n" not in word)


def test_numba_is_looked_for_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install numba" in (machine.numba() or "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert machine.numba() is None


def test_counters_hidden(tree: Tree) -> None:
    tree({"/proc/self/status": "Name: x\n"})
    assert "context switches" in (machine.proc_counters() or "")
    tree({"/proc/self/status": "voluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t1\n"})
    assert machine.proc_counters() is None


def test_maps_hidden(tree: Tree) -> None:
    tree({"/proc/self/smaps_rollup": "Rss: 4 kB\nPss: 4 kB\n"})
    assert "shared" in (machine.memory_maps() or "")
    tree({"/proc/self/smaps_rollup": "Rss: 4 kB\nPss: 4 kB\n", "/proc/self/smaps": ""})
    assert machine.memory_maps() is None


def test_connections_hidden(tree: Tree) -> None:
    tree({"/proc/meminfo": "Slab: 4 kB\n"})
    assert "TCP connections" in (machine.tcp_states() or "")
    tree({"/proc/meminfo": "Slab: 4 kB\n", "/proc/net/tcp": ""})
    assert machine.tcp_states() is None


# What fits


def test_64_descriptors(tree: Tree) -> None:
    tree({}, limits={"RLIMIT_NOFILE": (64, 64)})
    (Path(machine._ROOT) / "proc/self/fd").mkdir(parents=True)
    for number in range(5):
        (Path(machine._ROOT) / f"proc/self/fd/{number}").touch()
    assert machine.fit(44, descriptors_each=1) == (44, None)
    assert machine.fit(1000, descriptors_each=1) == (
        44,
        "scaled down from 1,000 to 44: 64 file descriptors allowed, 4 in use",
    )
    assert machine.fit(1000, descriptors_each=2).count == 22
    with pytest.raises(machine.TooSmall, match="needs 100 and there is room for 44: 64 file descriptors"):
        machine.fit(1000, at_least=100, descriptors_each=1)
    assert machine.fit(3, at_least=100, descriptors_each=1) == (3, None)
    assert machine.fit(0, descriptors_each=1) == (0, None)


@pytest.mark.parametrize("name", ["wanted", "at_least", "bytes_each", "descriptors_each", "ports_each"])
def test_fit_refuses_a_negative(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1"):
        machine.fit(**{"wanted": 1, name: -1})


@linux
def test_descriptors_that_fit_can_be_opened() -> None:
    code = """
        import os, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
        from helpers import machine
        count, reason = machine.fit(1000, descriptors_each=2)
        for _ in range(count):
            os.pipe()
        raised = machine.raise_descriptor_limit()
        print(count, "64 file descriptors allowed" in reason, raised, machine.fit(1000, descriptors_each=2).count)
    """
    count, worded, raised, more = run_python(code).split()
    assert 15 <= int(count) <= 24
    assert (worded, raised) == ("True", "128")
    assert int(more) >= 16  # the pipes above are counted as in use


@linux
def test_threads_that_fit_in_little_address_space_can_be_started() -> None:
    code = """
        import resource, threading
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        from helpers import machine
        count, reason = machine.fit(10_000, threads_each=1)
        stop = threading.Event()
        threads = [threading.Thread(target=stop.wait, daemon=True) for _ in range(count)]
        for thread in threads: thread.start()
        stop.set()
        print(count, "address space" in reason)
    """
    count, worded = run_python(code).split()
    assert int(count) >= 4  # each takes a stack of 8 MiB and, the first sixteen, a heap of 64 MiB
    assert worded == "True"


def test_own_tasks_are_counted(tree: Tree) -> None:
    mine = os.getuid() if hasattr(os, "getuid") else 0
    tree(
        {
            "/proc/10/status": f"Name:\ta\nUid:\t{mine}\t0\t0\t0\nThreads:\t7\n",
            "/proc/11/status": f"Name:\tb\nUid:\t{mine}\t0\t0\t0\nThreads:\tgarbage\n",
            "/proc/12/status": f"Name:\tc\nUid:\t{mine + 1}\t0\t0\t0\nThreads:\t50\n",
            "/proc/loadavg": "0.1 0.1 0.1 1/500 99\n",
        },
        limits={"RLIMIT_NPROC": (100, 100)},
    )
    assert machine.fit(MANY, processes_each=1).count == 100 - 8 - machine._SPARE_TASKS


each = st.integers(0, 5)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    wanted=st.integers(0, 10**6),
    more=st.integers(0, 10**6),
    soft=st.integers(0, 10**5),
    opened=st.integers(1, 200),
    tasks=st.integers(0, 10**5),
    running=st.integers(0, 10**4),
    available=st.integers(0, 10**8),
    low=st.integers(1, 65_535),
    bytes_each=st.integers(0, 10**9),
    descriptors=each,
    processes=each,
    threads=each,
    ports=each,
)
def test_fit_keeps_within_every_limit(
    wanted: int,
    more: int,
    soft: int,
    opened: int,
    tasks: int,
    running: int,
    available: int,
    low: int,
    bytes_each: int,
    descriptors: int,
    processes: int,
    threads: int,
    ports: int,
) -> None:
    files = {
        "/proc/meminfo": f"MemAvailable: {available} kB\n",
        "/proc/sys/kernel/threads-max": f"{tasks}\n",
        "/proc/loadavg": f"0 0 0 1/{running} 5\n",
        "/proc/sys/net/ipv4/ip_local_port_range": f"{low}\t65535\n",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_SYSTEM", "linux")
        patch.setattr(machine, "_read", files.get)
        patch.setattr(machine, "_list", lambda path: ["x"] * opened if path == "/proc/self/fd" else [])
        patch.setattr(machine, "_rlimit", lambda name: (soft, soft) if name == "RLIMIT_NOFILE" else (None, None))
        takes: dict[str, int] = {
            "bytes_each": bytes_each,
            "descriptors_each": descriptors,
            "processes_each": processes,
            "threads_each": threads,
            "ports_each": ports,
        }
        fit = machine.fit(wanted, at_least=0, **takes)
        larger = machine.fit(wanted + more, at_least=0, **takes)
        if wanted and not fit.count:
            with pytest.raises(machine.TooSmall):
                machine.fit(wanted, **takes)
    count = fit.count
    assert 0 <= count <= wanted
    assert (fit.reason is None) == (count == wanted)
    assert larger.count >= count
    if count:
        assert count * bytes_each <= available * 1024 // 2
        assert not descriptors or count * descriptors <= soft - (opened - 1) - 16
        assert not processes + threads or count * (processes + threads) <= tasks - running
        assert not ports or count * ports <= 65_535 - low + 1


# Activity


def test_activity_reads_proc_stat(tree: Tree) -> None:
    ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    numbers = [ticks, 2 * ticks, 3 * ticks, 40, 60, 4 * ticks, 5 * ticks, 6 * ticks, 999, 999]
    tree({"/proc/stat": f"cpu  {' '.join(map(str, numbers))}\ncpu0 1\n"})
    now = machine.activity()
    assert now.busy_s == pytest.approx(1 + 2 + 3 + 4 + 5)  # guests are in user already
    assert now.idle_s == pytest.approx(100 / ticks)
    assert now.stolen_s == pytest.approx(6)


@linux
def test_activity_sees_work_of_this_process_and_its_children() -> None:
    before = machine.activity()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    between = machine.activity()
    burn = "import time\nwhile time.process_time() < 0.15: pass"
    subprocess.run([sys.executable, "-I", "-S", "-c", burn], check=True)
    after = machine.activity()
    assert between.own_cpu_s - before.own_cpu_s >= 0.099
    assert after.own_cpu_s - between.own_cpu_s >= 0.14
    assert after.busy_s - before.busy_s >= 0.15  # type: ignore[operator]
    assert after.voluntary > before.voluntary  # type: ignore[operator]
    assert after.wall_ns > between.wall_ns > before.wall_ns


@linux
def test_activity_is_cheap() -> None:
    costs = []
    for _ in range(101):
        start = time.perf_counter_ns()
        machine.activity()
        costs.append(time.perf_counter_ns() - start)
    assert statistics.quantiles(costs, n=4)[0] < 300_000  # ns; the lower quartile, for others use this machine too


# Programs on the machine


def program(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\nPATH=/bin:/usr/bin\n{body}\n")
    path.chmod(0o755)
    return path


def python_that_says(folder: Path, name: str, **facts: object) -> Path:
    said = {
        "implementation": "cpython",
        "version": "3.12.1",
        "numbers": (3, 12, 1),
        "prefix": str(folder),
        "gil": True,
        "ft": False,
    }
    answer = repr(tuple((said | facts).values()))
    return program(folder, name, f'cat <<"END"\n{answer}\nEND')


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No interpreter to be found, but this one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), str(tmp_path / ".pyenv/shims"), "/usr/nowhere"]))
    for name in (
        "PYENV_ROOT",
        "UV_PYTHON_INSTALL_DIR",
        "XDG_DATA_HOME",
        "CONDA_PREFIX",
        "CONDA_ROOT",
        "JAVA_HOME",
        "CARGO_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


posix = pytest.mark.skipif(os.name != "posix", reason="shell scripts stand in for programs")


@posix
def test_this_interpreter_is_always_found(empty_home: Path) -> None:
    (one,) = machine.interpreters()
    assert one.path == sys.executable
    assert one.version == sys.version.split()[0]
    assert one.found_by == "this one"
    assert one.gil == getattr(sys, "_is_gil_enabled", lambda: True)()


@posix
def test_interpreters_are_found_once_each(empty_home: Path) -> None:
    home = empty_home
    (home / "bin").mkdir()
    (home / "bin/python3").symlink_to(sys.executable)  # an environment, or a second name, of this one
    python_that_says(home / "bin", "python3.10", version="3.10.2", numbers=(3, 10, 2), prefix="/usr")
    python_that_says(home / ".pyenv/versions/3.9.1/bin", "python3", version="3.9.1", numbers=(3, 9, 1))
    (home / ".pyenv/versions/3.9.1/bin/python3.9").symlink_to("python3")
    python_that_says(home / ".pyenv/shims", "python3.9", version="3.9.1", numbers=(3, 9, 1), prefix="/shim")
    uv = home / ".local/share/uv/python/cpython-3.14.0+freethreaded-linux/bin"
    python_that_says(uv, "python3.14t", version="3.14.0", numbers=(3, 14, 0), gil=False, ft=True)
    python_that_says(home / "miniconda3/envs/x/bin", "python3", version="3.13.0", numbers=(3, 13, 0))
    listed = home / "elsewhere"
    python_that_says(listed / "bin", "python3.8", version="3.8.0", numbers=(3, 8, 0))
    (home / ".conda").mkdir()
    (home / ".conda/environments.txt").write_text(f"{listed}\n/does/not/exist\n\n")
    python_that_says(home / "bin", "python3.7", version="3.7.0", numbers=(3, 7, 0))  # too old
    python_that_says(home / "bin", "python3.6", implementation="pypy")
    program(home / "bin", "python3.5", "exit 1")
    program(home / "bin", "python3.4", "echo '{'")
    (home / "bin/python3.3").write_text("not a program")
    (home / "bin/python3.2").symlink_to("nothing")
    found = {one.version: one for one in machine.interpreters() if one.found_by != "this one"}
    assert {version: one.found_by for version, one in found.items()} == {
        "3.8.0": "conda",
        "3.9.1": "pyenv",
        "3.10.2": "PATH",
        "3.13.0": "conda",
        "3.14.0": "uv",
    }
    assert (found["3.14.0"].gil, found["3.14.0"].free_threaded) == (False, True)
    everything = machine.interpreters()
    assert [one.found_by for one in everything].count("this one") == 1
    numbers = [
        tuple(int("".join(filter(str.isdigit, part))) for part in one.version.split(".")[:2]) for one in everything
    ]
    assert numbers == sorted(numbers)


@posix
def test_a_program_that_hangs_is_ended_with_its_children(empty_home: Path) -> None:
    note = empty_home / "pid"
    program(empty_home / "bin", "python3.9", f"sleep 60 & echo $! > {note}; wait")
    start = time.monotonic()
    assert [one.found_by for one in machine.interpreters()] == ["this one"]
    assert time.monotonic() - start < 10
    child = int(note.read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and gone(child) is False:
        time.sleep(0.02)
    assert gone(child)


def gone(pid: int) -> bool:
    """Ended; one that nobody has waited for yet counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = machine._read(f"/proc/{pid}/stat") or ""
    return stat.rpartition(")")[2].split()[:1] == ["Z"]


@posix
def test_toolchains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "go": "go version go1.27.1 linux/amd64",
        "java": 'Picked up JAVA_TOOL_OPTIONS: -Xint\nopenjdk version "25.0.1" 2025-10-21',
        "javac": "javac 25.0.1",
        "node": "v24.1.0",
        "gcc": "gcc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright",
        "clang": "Apple clang version 15.0.0 (clang-1500.3.9.4)",
        "perf": "perf version 6.1.187",
        "postgres": "postgres (PostgreSQL) 15.18 (Debian 15.18-0)",
        "cargo": "error: rustup could not choose a version of cargo to run",
    }
    for name, answer in said.items():
        program(tmp_path, name, f"cat >&2 <<'END'\n{answer}\nEND")
    program(tmp_path, "wrk", "echo 'wrk debian/4.1.0-3+b2 [epoll] Copyright'; exit 1")
    monkeypatch.setattr(machine, "_tool_folders", lambda: str(tmp_path))
    tools = {tool.name: tool for tool in machine.toolchains()}
    assert {name: tool.version for name, tool in tools.items()} == {
        "go": "1.27.1",
        "java": "25.0.1",
        "javac": "25.0.1",
        "node": "24.1.0",
        "npm": None,
        "rustc": None,
        "cargo": None,
        "cc": "12.2.0",
        "clang": "15.0.0",
        "perf": "6.1.187",
        "wrk": "4.1.0-3+b2",
        "psql": None,
        "postgres": "15.18",
    }
    assert all((tool.path is None) == (tool.version is None) for tool in tools.values())


def test_toolchains_of_this_machine() -> None:
    tools = machine.toolchains()
    assert [tool.name for tool in tools] == list(machine._TOOLS)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (64, "64 bytes"),
        (4096, "4 KiB"),
        (1536, "1.5 KiB"),
        (2**30, "1 GiB"),
        (25274793984, "23.5 GiB"),
        (2**30 + 1, "1 GiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert machine.size(count) == text
