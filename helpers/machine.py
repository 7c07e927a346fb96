"""What this machine is, and what it allows.

`card()` is the machine's description that every record carries, `describe()` the same for people. `fit()` gives an
experiment the size that this machine's limits leave room for. The needs (`pinning()`, `two_cores()`, …) say in one
line what is missing and how to get it. `activity()` is a cheap reading of what the machine is doing, from which noise
is graded.

Nothing here raises because something can't be known: it is unknown then, with a reason. The exception is `TooSmall`,
which says that an experiment doesn't fit at all. The standard library alone, and little of it at import: this module
is imported in a fresh interpreter before every experiment.
"""

# pathlib is slow to import, and this module stands in front of every experiment:

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

Value = TypeVar("Value")

_ROOT = ""  # put before every path that is read: tests place a made-up /proc and /sys there
_SYSTEM = sys.platform
_ENDLESS = 2**60  # a limit this large is none: kernels write "unlimited" as a large number in several ways
_LARGEST_FILE = 256 * 1024  # bytes read of any file of facts

_SPARE_DESCRIPTORS = 16
_SPARE_TASKS = 32
_SPARE_PORTS = 64
_ASSUMED_OPEN = 32  # descriptors, where the system doesn't tell how many are open
_USUAL_STACK = 8 * 2**20  # bytes of address space that a thread's stack reserves
_HEAP = 64 * 2**20  # and the heap that glibc gives to each of the first threads, eight to a core


class TooSmall(RuntimeError):
    """This machine is too small for what was asked; the message says which limit is in the way."""


class _Unknown(Exception):
    """A fact can't be known; the message is the reason."""


class Fit(NamedTuple):
    """What fits: `count` of the things wanted, and why not all of them (None: all of them fit)."""

    count: int  # type: ignore[assignment]  # takes the place of tuple.count
    reason: str | None


class Interpreter(NamedTuple):
    """One CPython build on this machine. `gil` tells whether a normal start of it has the GIL."""

    path: str
    version: str
    implementation: str
    gil: bool
    free_threaded: bool
    found_by: str


class Tool(NamedTuple):
    """A program that some notebook can use; version and path are None where it is missing."""

    name: str
    version: str | None
    path: str | None


class Activity(NamedTuple):
    """Counters of this moment; subtract two of them. None: the system doesn't tell.

    `wall_ns` is `perf_counter_ns`. `busy_s`, `idle_s` and `stolen_s` are CPU seconds of the whole machine, all cores
    added, in steps of 10 ms on Linux (`/proc/stat`; what a hypervisor gave to others is stolen). `own_cpu_s`,
    `voluntary` and `involuntary` (context switches) are those of this process, all its threads, and of the children it
    has waited for (`getrusage`). `load_average` is the mean of the last minute.
    """

    wall_ns: int
    busy_s: float | None
    idle_s: float | None
    stolen_s: float | None
    own_cpu_s: float
    voluntary: int | None
    involuntary: int | None
    load_average: float | None


# Reading. Everything that is asked of the system goes through these, so that tests can answer instead.


def _read(path: str) -> str | None:
    """The start of a text file, or None if it can't be read."""
    try:
        with open(_ROOT + path, "rb") as file:
            return file.read(_LARGEST_FILE).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def _list(path: str) -> list[str]:
    """The names in a folder, in order; none if it can't be read."""
    try:
        return sorted(os.listdir(_ROOT + path))
    except (OSError, ValueError):
        return []


def _exists(path: str) -> bool:
    return os.path.exists(_ROOT + path)


def _number(text: str | None, unit: int = 1) -> int | None:
    """The number that a text states; None for no number, a negative one, and one so large that it means "no limit"."""
    try:
        number = int(text or "") * unit
    except ValueError:
        return None
    return number if 0 <= number < _ENDLESS else None


def _fields(path: str, separator: str = ":") -> dict[str, str]:
    """The lines `name: value` of a file; of several with one name, the first."""
    found: dict[str, str] = {}
    for line in (_read(path) or "").splitlines():
        name, _, value = line.partition(separator)
        found.setdefault(name.strip(), value.strip())
    return found


def _kibibytes(field: str | None) -> int | None:
    """`24682416 kB`, as /proc writes it, in bytes."""
    return _number((field or "").removesuffix("kB").strip(), 1024)


def _core_list(text: str | None) -> list[int]:
    """`0-2,5` as [0, 1, 2, 5]; nothing for anything else."""
    cores: set[int] = set()
    for part in (text or "").strip().split(","):
        low, _, high = part.partition("-")
        first, last = _number(low), _number(high or low)
        if first is None or last is None or last - first > 65_535:
            return []
        cores.update(range(first, last + 1))
    return sorted(cores)


def _known(fact: Callable[[], Value]) -> Value | None:
    """A fact, or None if it can't be known."""
    try:
        return fact()
    except Exception:
        return None


def _need(value: Value | None, reason: str) -> Value:
    """The value, if there is one."""
    if value is None:
        raise _Unknown(reason)
    return value


def _linux() -> bool:
    return _SYSTEM.startswith("linux")


def _system() -> str:
    """Linux, macOS, Windows, or what Python calls it."""
    return "Linux" if _linux() else {"darwin": "macOS", "win32": "Windows"}.get(_SYSTEM, _SYSTEM)


def _psutil() -> Any:
    """psutil, which stands in where there is no /proc."""
    if _linux():
        raise _Unknown("/proc doesn't state it")
    from importlib import import_module

    try:
        return import_module("psutil")
    except ImportError:
        raise _Unknown("psutil would tell, and this interpreter hasn't got it") from None


@cache
def _sysctl() -> dict[str, str]:
    """macOS's answers to everything we ask of it, by name; empty elsewhere."""
    if _SYSTEM != "darwin":
        return {}
    names = (
        "machdep.cpu.brand_string hw.cachelinesize hw.memsize hw.physicalcpu hw.perflevel0.cpusperl2 "
        "hw.l1dcachesize hw.l1icachesize hw.l2cachesize hw.l3cachesize "
        "hw.perflevel0.l1dcachesize hw.perflevel0.l1icachesize hw.perflevel0.l2cachesize "
        "kern.hv_vmm_present kern.maxproc kern.maxfilesperproc kern.num_taskthreads "
        "net.inet.ip.portrange.first net.inet.ip.portrange.last"
    )
    found: dict[str, str] = {}
    for line in (_ask("/usr/sbin/sysctl", *names.split()) or "").splitlines():
        name, _, value = line.partition(":")
        found[name.strip()] = value.strip()
    return found


def _rlimit(name: str) -> tuple[int | None, int | None]:
    """A resource limit, soft and hard; None for "no limit"."""
    try:
        import resource
    except ImportError:
        raise _Unknown(f"{_system()} has no such limit to ask for") from None
    kind = getattr(resource, name, None)
    if kind is None:
        raise _Unknown(f"{_system()} has no {name}")
    soft, hard = (None if value < 0 or value >= _ENDLESS else int(value) for value in resource.getrlimit(kind))
    return soft, hard


def _soft_limit(name: str) -> int | None:
    """A soft limit; None where there is none, or no telling."""
    return (_known(partial(_rlimit, name)) or (None, None))[0]


# Control groups: a container's or a session's limits, and those of everything around it.


def _cgroup_mounts(controller: str) -> list[tuple[str, str]]:
    """Where a controller's groups (version 1), or those of version 2 (no name), are mounted: top group and folder."""
    found = []
    for line in (_read("/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        place, kind = left.split(), right.split()
        if len(place) < 5 or len(kind) < 3:
            continue
        if (kind[0] == "cgroup2" and not controller) or (kind[0] == "cgroup" and controller in kind[2].split(",")):
            found.append((place[3], place[4].replace("\\040", " ")))
    return found or [("/", f"/sys/fs/cgroup/{controller}".rstrip("/"))]


def _cgroups(controller: str) -> list[str]:
    """The folders of the control groups that this process is in, from the innermost to the outermost in sight."""
    folders: list[str] = []
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        names, _, group = line.partition(":")[2].partition(":")
        if names and controller not in names.split(","):
            continue
        for top, folder in _cgroup_mounts(controller if names else ""):
            inner = group.removeprefix(top) if top != "/" else group
            parts = [part for part in inner.split("/")[:64] if part not in ("", ".", "..")]
            folders += ["/".join([folder, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return list(dict.fromkeys(folders))


def _first_number(folder: str, *names: str) -> int | None:
    """The first number found in files of a folder: version 2 and version 1 name them differently."""
    numbers = (_number(_read(f"{folder}/{name}")) for name in names)
    return next((number for number in numbers if number is not None), None)


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Limit of every control group around this process, and bytes in use (less what the kernel can drop at once)."""
    for folder in _cgroups("memory"):
        limit = _first_number(folder, "memory.max", "memory.limit_in_bytes")
        if limit is None:
            continue
        used = _first_number(folder, "memory.current", "memory.usage_in_bytes") or 0
        pages = _fields(f"{folder}/memory.stat", " ")
        droppable = _number(pages.get("total_inactive_file", pages.get("inactive_file"))) or 0
        yield limit, max(0, used - droppable)


def _cpu_quotas() -> Iterator[float]:
    """Cores' worth of time that each control group around this process may use."""
    for folder in _cgroups("cpu"):
        quota, _, period = (_read(f"{folder}/cpu.max") or "").strip().partition(" ")
        share = _number(quota), _number(period)
        if share == (None, None):
            share = _number(_read(f"{folder}/cpu.cfs_quota_us")), _number(_read(f"{folder}/cpu.cfs_period_us"))
        if share[0] is not None and share[1]:
            yield share[0] / share[1]


# Facts. Each gives a value (None is one: "no limit") or raises _Unknown with the reason.


def _distribution() -> str:
    if _linux():
        name = _fields("/etc/os-release", "=").get("PRETTY_NAME", "").strip("\"'")
        return _need(name or None, "/etc/os-release doesn't name it")
    import platform

    return f"{_system()} {platform.mac_ver()[0] or platform.release()}".strip()


def _kernel() -> str:
    if not hasattr(os, "uname"):
        import platform

        return platform.version()
    name = os.uname()
    return name.release if name.sysname == "Linux" else f"{name.sysname} {name.release}"


def _cpu_model() -> str:
    if not _linux():
        return _need(
            _sysctl().get("machdep.cpu.brand_string") or os.environ.get("PROCESSOR_IDENTIFIER"),
            f"{_system()} doesn't say",
        )
    said = _fields("/proc/cpuinfo")
    names = [said.get(name) for name in ("model name", "Model", "Hardware", "cpu model", "cpu")]
    names.append((_read("/sys/firmware/devicetree/base/model") or "").strip("\0\n "))
    return _need(next((name for name in names if name), None), "/proc/cpuinfo doesn't name the processor")


def _cores_online() -> int:
    return len(_core_list(_read("/sys/devices/system/cpu/online"))) or _need(
        os.cpu_count(), "the system doesn't count its cores"
    )


_mask_before_pinning: frozenset[int] | None = None


def _mask() -> frozenset[int]:
    """Cores of the affinity mask, as it was before `pin` narrowed it."""
    if _mask_before_pinning is not None:
        return _mask_before_pinning
    ask = getattr(os, "sched_getaffinity", None)
    if ask:
        return frozenset(ask(0))
    if _SYSTEM == "win32":
        allowed = _known(lambda: _psutil().Process().cpu_affinity())
        if allowed:
            return frozenset(allowed)
    return frozenset(range(_cores_online()))


def _cores_usable() -> float:
    return float(min([len(_mask()), *_cpu_quotas()]))


def _caches() -> list[dict[str, object]]:
    found = _caches_linux() if _linux() else _caches_mac()
    return _need(
        found or None, "the system doesn't state its caches" if _linux() else f"{_system()} isn't asked for its caches"
    )


def _caches_linux() -> list[dict[str, object]]:
    folder = f"/sys/devices/system/cpu/cpu{min(_mask(), default=0)}/cache"
    found: list[dict[str, object]] = []
    for index in _list(folder):
        here = f"{folder}/{index}"
        level = _number(_read(f"{here}/level"))
        kind = (_read(f"{here}/type") or "").strip().lower()
        text = (_read(f"{here}/size") or "").strip().upper()
        size = _number(text.rstrip("KMG"), {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1))
        if level is None or not size or kind not in ("data", "instruction", "unified"):
            continue
        shared = len(_core_list(_read(f"{here}/shared_cpu_list"))) or 1
        found.append({"level": level, "kind": kind, "bytes": size, "shared_by": shared})
    return found


def _caches_mac() -> list[dict[str, object]]:
    say = _sysctl()
    l2_shared = _number(say.get("hw.perflevel0.cpusperl2")) or 1
    l3_shared = _number(say.get("hw.physicalcpu")) or 1
    kinds = (
        ("l1d", 1, "data", 1),
        ("l1i", 1, "instruction", 1),
        ("l2", 2, "unified", l2_shared),
        ("l3", 3, "unified", l3_shared),
    )
    found: list[dict[str, object]] = []
    for name, level, kind, shared in kinds:
        size = _number(say.get(f"hw.perflevel0.{name}cachesize")) or _number(say.get(f"hw.{name}cachesize"))
        if size:
            found.append({"level": level, "kind": kind, "bytes": size, "shared_by": shared})
    return found


def _cache_line() -> int:
    folder = f"/sys/devices/system/cpu/cpu{min(_mask(), default=0)}/cache"
    sizes = [_number(_read(f"{folder}/{index}/coherency_line_size")) for index in _list(folder)]
    sizes += [_number(_fields("/proc/cpuinfo").get("clflush size")), _number(_sysctl().get("hw.cachelinesize"))]
    return _need(next((size for size in sizes if size), None), "the system doesn't state it")


def _meminfo(name: str) -> int | None:
    return _kibibytes(_fields("/proc/meminfo").get(name))


def _memory() -> int:
    if _linux():
        return _need(_meminfo("MemTotal"), "/proc/meminfo doesn't state it")
    return int(_number(_sysctl().get("hw.memsize")) or _psutil().virtual_memory().total)


def _memory_limit() -> int | None:
    return min((limit for limit, _ in _memory_limits()), default=None)


def _memory_available() -> int:
    if _linux():
        free = _need(_meminfo("MemAvailable"), "/proc/meminfo doesn't state it")
    else:
        free = int(_psutil().virtual_memory().available)
    return min([free, *(max(0, limit - used) for limit, used in _memory_limits())])


def _swap() -> int:
    return (
        _need(_meminfo("SwapTotal"), "/proc/meminfo doesn't state it")
        if _linux()
        else int(_psutil().swap_memory().total)
    )


def _page() -> int:
    import mmap

    return mmap.PAGESIZE


def _huge_page() -> int:
    return _need(
        _meminfo("Hugepagesize"), "/proc/meminfo doesn't state it" if _linux() else f"{_system()} isn't asked for it"
    )


def _transparent_huge_pages() -> str:
    text = _read("/sys/kernel/mm/transparent_hugepage/enabled") or ""
    chosen = text.partition("[")[2].partition("]")[0]
    return _need(chosen or None, "this kernel has none" if _linux() else f"{_system()} has none")


class _Limit(NamedTuple):
    """So many are allowed, so many are there already."""

    allowed: int
    used: Callable[[], int]
    words: str


def _all_tasks() -> int:
    """Processes and threads on the machine (in /proc/loadavg: running/all)."""
    words = (_read("/proc/loadavg") or "").split()
    return (_number(words[3].partition("/")[2]) if len(words) > 3 else None) or 0


def _own_tasks() -> int:
    """Processes and threads of this user."""
    if not _linux():
        return len(_known(lambda: _psutil().pids()) or [])
    mine = os.getuid()
    count = 0
    for name in _list("/proc"):
        if not name.isdecimal():
            continue
        status = _fields(f"/proc/{name}/status")
        if _number(status.get("Uid", "").partition("\t")[0]) == mine:
            count += _number(status.get("Threads")) or 1
    return count


def _group_tasks(folder: str) -> int:
    return _number(_read(f"{folder}/pids.current")) or 0


def _own_mappings() -> int:
    """Parts of this process's address space, in pairs: a thread's stack and its guard are two."""
    return (_read("/proc/self/maps") or "").count("\n") // 2


def _task_limits() -> list[_Limit]:
    """Every limit on processes and threads together, as Linux counts them."""
    found = []
    user = _soft_limit("RLIMIT_NPROC")
    if user is not None:
        found.append(_Limit(user, _own_tasks, "processes and threads allowed to one user"))
    for path in ("/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"):
        allowed = _number(_read(path))
        if allowed is not None:
            found.append(_Limit(allowed, _all_tasks, "processes and threads allowed on this machine"))
    for folder in _cgroups("pids"):
        allowed = _number(_read(f"{folder}/pids.max"))
        if allowed is not None:
            found.append(
                _Limit(
                    allowed, partial(_group_tasks, folder), "processes and threads allowed to this container or session"
                )
            )
    return found


def _process_limits() -> list[_Limit]:
    allowed = _number(_sysctl().get("kern.maxproc"))
    return [] if allowed is None else [_Limit(allowed, _own_tasks, "processes allowed on this machine")]


def _thread_limits() -> list[_Limit]:
    """Limits on the threads of one process alone."""
    mappings = _number(_read("/proc/sys/vm/max_map_count"))
    threads = _number(_sysctl().get("kern.num_taskthreads"))
    found = []
    if mappings is not None:
        found.append(_Limit(mappings // 2, _own_mappings, "threads whose stacks one process can map"))
    if threads is not None:
        found.append(_Limit(threads, lambda: 1, "threads allowed to one process"))
    return found


def _smallest(limits: Iterable[_Limit]) -> int | None:
    """The limit that is met first; None where the system sets none."""
    found = min((limit.allowed for limit in limits), default=None)
    if found is None and _SYSTEM == "win32":
        raise _Unknown("Windows states no limit; memory is the limit")
    return found


def _processes_max() -> int | None:
    return _smallest([*_task_limits(), *_process_limits()])


def _threads_max() -> int | None:
    return _smallest([*_task_limits(), *_thread_limits()])


def _ports() -> list[int]:
    words = (_read("/proc/sys/net/ipv4/ip_local_port_range") or "").split()
    words = words or [_sysctl().get(f"net.inet.ip.portrange.{end}", "") for end in ("first", "last")]
    ports = [port for port in map(_number, words) if port is not None and port <= 65_535]
    if len(words) != 2 or len(ports) != 2 or ports[0] > ports[1]:
        raise _Unknown("the system doesn't state the range that it lends")
    return ports


def _disk_free() -> int:
    if not hasattr(os, "statvfs"):
        import shutil
        import tempfile

        return shutil.disk_usage(tempfile.gettempdir()).free
    for folder in [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")] + ["/tmp", "/var/tmp"]:
        if folder and os.path.isdir(folder):
            disk = os.statvfs(folder)
            return disk.f_bavail * disk.f_frsize
    raise _Unknown("there is no folder for temporary files")


def _python_version() -> str:
    return sys.version.split()[0]


def _python_build() -> str:
    return " ".join(sys.version.split()[1:])


def _implementation() -> str:
    name = sys.implementation.name
    return {"cpython": "CPython", "pypy": "PyPy"}.get(name, name)


def _gil() -> bool:
    ask = getattr(sys, "_is_gil_enabled", None)
    if ask:
        return bool(ask())
    if sys.implementation.name not in ("cpython", "pypy"):
        raise _Unknown(f"{sys.implementation.name} doesn't say")
    return True


def _free_threaded_build() -> bool:
    return "free-threading" in sys.version  # since 3.13, the first that can be built so


def _clock_resolution() -> float:
    return time.get_clock_info("perf_counter").resolution * 1e9


def _clock_overhead() -> float:
    """Median cost of one `perf_counter_ns()`, from its name to its value, over 101 rows of nine calls (0.1 ms)."""
    now = time.perf_counter_ns
    rows = []
    for _ in range(101):
        row = (now(), now(), now(), now(), now(), now(), now(), now(), now())
        rows.append((row[8] - row[0]) / 8)
    return sorted(rows)[50]


def _virtualisation() -> str:
    if _SYSTEM == "darwin":
        return "virtual machine" if _need(_sysctl().get("kern.hv_vmm_present"), "macOS doesn't say") == "1" else "none"
    if not _linux():
        raise _Unknown(f"{_system()} isn't asked for it")
    inside = [name for name in (_hypervisor(), _container()) if name]
    if not inside and not _read("/proc/cpuinfo"):
        raise _Unknown("/proc/cpuinfo can't be read")
    return ", ".join(inside) or "none"


_MAKERS = {  # what the firmware of a virtual machine calls itself, and what runs such machines
    "firecracker": "kvm (firecracker)",
    "amazon ec2": "kvm (Amazon EC2)",
    "google": "kvm (Google)",
    "openstack": "kvm (OpenStack)",
    "digitalocean": "kvm (DigitalOcean)",
    "hetzner": "kvm (Hetzner)",
    "qemu": "kvm",
    "kvm": "kvm",
    "vmware": "vmware",
    "virtualbox": "virtualbox",
    "innotek": "virtualbox",
    "microsoft corporation virtual machine": "hyper-v",
    "parallels": "parallels",
    "apple virtualization": "apple",
    "xen": "xen",
    "bhyve": "bhyve",
}


def _hypervisor() -> str | None:
    """The kind of virtual machine that this is, None if it is none."""
    if "microsoft" in (_known(_kernel) or "").lower():
        return "WSL"
    said = _fields("/proc/cpuinfo")
    flags = said.get("flags", "").split()
    if flags and "hypervisor" not in flags:
        return None
    maker = " ".join(
        (_read(f"/sys/class/dmi/id/{name}") or "").strip() for name in ("sys_vendor", "product_name")
    ).lower()
    if "FIRECK" in (_read("/sys/firmware/acpi/tables/FACP") or ""):
        maker = "firecracker"
    for name, kind in _MAKERS.items():
        if name in maker and (flags or name != "google"):
            return kind
    kind = (_read("/sys/hypervisor/type") or "").strip()
    clocks = _read("/sys/devices/system/clocksource/clocksource0/available_clocksource") or ""
    if kind.isalnum():
        return kind
    for clock, kind in (("kvm-clock", "kvm"), ("hyperv", "hyper-v"), ("xen", "xen")):
        if clock in clocks:
            return kind
    return "virtual machine" if flags else None


def _container() -> str | None:
    """The kind of container that this process is in, None if in none."""
    mounts = (line.split() for line in (_read("/proc/self/mountinfo") or "").splitlines())
    layered = any(words[4:5] == ["/"] and "overlay" in words for words in mounts)
    if (_read("/proc/2/comm") or "").strip() == "kthreadd" and not layered:
        return None  # the kernel's own threads are in sight: a whole machine, even if made from a container's image
    groups = _read("/proc/1/cgroup") or ""
    if "kubepods" in groups or "KUBERNETES_SERVICE_HOST" in os.environ:
        return "container: kubernetes"
    if _exists("/run/.containerenv") or "libpod" in groups:
        return "container: podman"
    if _exists("/.dockerenv") or "docker" in groups:
        return "container: docker"
    named = (_read("/run/systemd/container") or "").strip()
    if named.isascii() and named.replace("-", "").isalnum():
        return f"container: {named[:40]}"
    return "container: lxc" if "lxc" in groups else None


_FACTS: dict[str, Callable[[], object]] = {
    "system": _system,
    "distribution": _distribution,
    "kernel": _kernel,
    "virtualisation": _virtualisation,
    "cpu_model": _cpu_model,
    "cores_online": _cores_online,
    "cores_allowed": lambda: sorted(_mask()),
    "cores_usable": _cores_usable,
    "pinning": lambda: pinning() is None,
    "caches": _caches,
    "cache_line_bytes": _cache_line,
    "memory_bytes": _memory,
    "memory_limit_bytes": _memory_limit,
    "memory_available_bytes": _memory_available,
    "swap_bytes": _swap,
    "page_bytes": _page,
    "huge_page_bytes": _huge_page,
    "transparent_huge_pages": _transparent_huge_pages,
    "descriptors_soft": lambda: _rlimit("RLIMIT_NOFILE")[0],
    "descriptors_hard": lambda: _rlimit("RLIMIT_NOFILE")[1],
    "processes_max": _processes_max,
    "threads_max": _threads_max,
    "ports": _ports,
    "disk_free_bytes": _disk_free,
    "python_version": _python_version,
    "python_implementation": _implementation,
    "python_build": _python_build,
    "gil": _gil,
    "free_threaded_build": _free_threaded_build,
    "clock_resolution_ns": _clock_resolution,
    "clock_overhead_ns": _clock_overhead,
}


_PYTHON_FACTS = ("python_version", "python_implementation", "python_build", "gil", "free_threaded_build")


@cache
def _card() -> dict[str, object]:
    facts: dict[str, object] = {}
    unknown: dict[str, str] = {}
    for name, fact in _FACTS.items():
        try:
            facts[name] = fact()
        except _Unknown as why:
            facts[name], unknown[name] = None, str(why)
        except Exception as error:  # the other facts stand; its message may hold a path, so it isn't shown
            facts[name], unknown[name] = None, f"asking for it failed ({type(error).__name__})"
    return facts | {"unknown": unknown}


def card() -> dict[str, object]:
    """The facts of this machine and this interpreter: flat, plain values, the unit in the name; no host, user or path.

    Asked once per process. `None` is "no limit", unless the key is in `unknown`, which has the reason. `cores_usable`
    is the smaller of the affinity mask and the control groups' quota; `memory_available_bytes` heeds their limits too;
    `threads_max` and `processes_max` are the smallest of the user's, the kernel's (threads-max, pid_max; for threads,
    mappings) and the control groups' limits. Sources: /proc, /sys, getrlimit; elsewhere sysctl and psutil.
    """
    from copy import deepcopy

    return deepcopy(_card())


def python_facts() -> dict[str, object]:
    """The card's facts of this interpreter alone, for a card that was made under another. Cheap; not kept."""
    return {name: _known(_FACTS[name]) for name in _PYTHON_FACTS}


# Cores.


def cores() -> tuple[int, ...]:
    """The cores that this process may use; the same inside `pinned`, which narrows one thread for a while."""
    return tuple(sorted(_known(_mask) or {0}))


def pin(*cores: int) -> bool:
    """Keep the calling thread, and what it starts from now on, on these cores. False, and no change, if impossible."""
    global _mask_before_pinning
    ask, change = getattr(os, "sched_getaffinity", None), getattr(os, "sched_setaffinity", None)
    if not ask or not change:
        return False
    try:
        before = frozenset(ask(0))
        change(0, cores)
        if ask(0) != set(cores):  # the kernel drops, in silence, those that are not there
            change(0, before)
            return False
    except (OSError, ValueError, OverflowError, TypeError):
        return False
    if _mask_before_pinning is None:
        _mask_before_pinning = before
    return True


@contextmanager
def pinned(*cores: int) -> Iterator[bool]:
    """Keep the calling thread on these cores, and let it go afterwards. Yields whether that works here."""
    ask = getattr(os, "sched_getaffinity", None)
    before = _known(lambda: ask(0)) if ask else None
    done = before is not None and pin(*cores)
    try:
        yield done
    finally:
        if done:
            _known(lambda: os.sched_setaffinity(0, before or cores))


# Needs: None when satisfied, else one line with what is missing and what would supply it.


def pinning() -> str | None:
    """Can threads be kept on chosen cores? Asked by setting the mask that is set already."""
    ask, change = getattr(os, "sched_getaffinity", None), getattr(os, "sched_setaffinity", None)
    if not ask or not change:
        return f"{_system()} doesn't let Python choose cores: {_on_linux()}"
    try:
        change(0, ask(0))
    except OSError:
        return "choosing cores is forbidden here: start without the sandbox that forbids sched_setaffinity"
    return None


def two_cores() -> str | None:
    """Are there two cores for this process, and time enough for both?"""
    allowed = len(cores())
    if allowed < 2 <= (_known(_cores_online) or 0):
        return f"this process may use one core of {_cores_online()}: start it without taskset, or with `taskset -c 0,1`"
    if allowed < 2:
        return "there is one core: give this machine a second, or open the notebook on Binder"
    share = _known(_cores_usable) or float(allowed)
    if share < 2:
        return f"this container may use {share:.3g} cores' time: start it with `--cpus=2` or more"
    return None


def fork() -> str | None:
    """Can a process be forked?"""
    return None if hasattr(os, "fork") else f"{_system()} has no fork: {_on_linux()}"


def numba() -> str | None:
    """Is numba there for this interpreter? It is looked for, not imported."""
    from importlib.util import find_spec

    if _known(lambda: find_spec("numba")):
        return None
    version = sys.version.split()[0]
    return f"this Python {version} has no numba: `python -m pip install numba`, or use the environment of `make lab`"


def ctypes() -> str | None:
    """Was this Python built with ctypes?"""
    from importlib.util import find_spec

    if _known(lambda: find_spec("_ctypes")):
        return None
    return f"this Python {sys.version.split()[0]} was built without ctypes: install libffi's headers and build it again"


def free_threaded() -> str | None:
    """Is there a Python without a GIL on this machine?"""
    if any(one.free_threaded for one in interpreters()):
        return None
    return "no free-threaded Python was found: `uv python install 3.14t`, or `conda install python-freethreading`"


def proc_counters() -> str | None:
    """Does the system count a process's context switches?"""
    if "nonvoluntary_ctxt_switches" in _fields("/proc/self/status"):
        return None
    if not _linux() and _switches() != (None, None):
        return None
    return f"{_system()} doesn't count this process's context switches: {_on_linux()}"


def memory_maps() -> str | None:
    """Does the system tell a process's memory region by region, and which of its pages are shared?"""
    if "Pss" in _fields("/proc/self/smaps_rollup") and _exists("/proc/self/smaps"):
        return None
    return f"{_system()} doesn't tell which pages of a process are shared: {_on_linux()}"


def tcp_states() -> str | None:
    """Does the system list its TCP connections with their states, and say what memory it takes itself?"""
    if _exists("/proc/net/tcp") and "Slab" in _fields("/proc/meminfo"):
        return None
    return f"{_system()} doesn't list its TCP connections and its own memory: {_on_linux()}"


def _on_linux() -> str:
    if _linux():
        return "start without the sandbox that hides them"
    return "run it in WSL (`wsl --install`)" if _SYSTEM == "win32" else "run it on Linux, in a virtual machine say"


# Limits.


def _open_descriptors() -> int:
    names = _list("/proc/self/fd") if _linux() else _list("/dev/fd")
    return len(names) - 1 if names else _ASSUMED_OPEN  # one of them was the listing's own


def _ports_in_use() -> int:
    """TCP sockets that hold a port, those that linger (TIME_WAIT) included."""
    count = 0
    for path in ("/proc/net/sockstat", "/proc/net/sockstat6"):
        for name, value in _fields(path).items():
            words = value.split()
            if name.startswith("TCP"):
                count += sum(
                    _number(number) or 0
                    for what, number in zip(words[::2], words[1::2], strict=False)
                    if what in ("inuse", "tw")
                )
    return count


def _address_space() -> int | None:
    """Bytes of address space that this process may still map; None for no limit."""
    limit = _soft_limit("RLIMIT_AS")
    if limit is None:
        return None
    return max(0, limit - (_kibibytes(_fields("/proc/self/status").get("VmSize")) or 0))


def _stack() -> int:
    """Bytes of address space that a new thread reserves."""
    import threading

    return threading.stack_size() or _soft_limit("RLIMIT_STACK") or _USUAL_STACK


def _left(limit: _Limit, spare: int) -> tuple[int, str]:
    """How many more a limit allows, and the words for it."""
    used = _known(limit.used) or 0
    return limit.allowed - used - spare, f"{limit.allowed:,} {limit.words}, {used:,} in use"


def _room_memory(each: int, threads: int, processes: int) -> Iterator[tuple[int, str]]:
    available = _known(_memory_available)
    if each and available is not None:
        yield available // 2 // each, f"half of {size(available)} of available memory, {size(each)} each"
    space = None if processes else _known(_address_space)  # every process has an address space of its own
    if space is not None and each + threads:
        words = f"half of {size(space)} of address space that is left to this process"
        yield _mapped_within(space // 2, each, threads), words


def _mapped_within(space: int, each: int, threads: int) -> int:
    """How many things of `each` bytes and so many threads can be mapped; the first threads get a heap each."""
    lean = each + threads * _stack()
    full = lean + threads * _HEAP
    heaps = 8 * len(cores()) // threads if threads else 0
    count = space // full
    return count if count <= heaps else heaps + (space - heaps * full) // lean


def _room_counted(descriptors: int, processes: int, threads: int, ports: int) -> Iterator[tuple[int, str]]:
    soft = _soft_limit("RLIMIT_NOFILE")
    if descriptors and soft is not None:
        left, words = _left(_Limit(soft, _open_descriptors, "file descriptors allowed"), _SPARE_DESCRIPTORS)
        yield left // descriptors, words
    kinds = [(processes + threads, _task_limits), (processes, _process_limits), (threads, _thread_limits)]
    for each, limits in kinds:
        for limit in limits() if each else ():
            left, words = _left(limit, _SPARE_TASKS)
            yield left // each, words
    lent = _known(_ports) if ports else None
    if lent:
        left, words = _left(_Limit(lent[1] - lent[0] + 1, _ports_in_use, "ports to connect from"), _SPARE_PORTS)
        yield left // ports, words


def fit(
    wanted: int,
    *,
    at_least: int = 1,
    bytes_each: int = 0,
    descriptors_each: int = 0,
    processes_each: int = 0,
    threads_each: int = 0,
    ports_each: int = 0,
) -> Fit:
    """How many of `wanted` things this machine has room for now, each taking so much of everything; and why not all.

    Half of the available memory is left alone (`bytes_each` counts what each will touch), and a few descriptors,
    processes, threads and ports. Processes and threads are held against one limit, as Linux counts them. An unknown
    limit is none. Raises `TooSmall` if fewer than `at_least` fit (fewer may be wanted), and `ValueError` for a
    negative number.
    """
    each = {
        "bytes_each": bytes_each,
        "descriptors_each": descriptors_each,
        "processes_each": processes_each,
        "threads_each": threads_each,
        "ports_each": ports_each,
    }
    for name, value in {"wanted": wanted, "at_least": at_least, **each}.items():
        if value < 0:
            raise ValueError(f"{name} is {value}: it can't be negative")
    rooms = [
        *_room_memory(bytes_each, threads_each, processes_each),
        *_room_counted(descriptors_each, processes_each, threads_each, ports_each),
    ]
    room, words = min(rooms, default=(wanted, ""))
    count = max(0, min(wanted, room))
    if count < min(at_least, wanted):
        raise TooSmall(f"needs {min(at_least, wanted):,} and there is room for {count:,}: {words}")
    return Fit(count, None if count == wanted else f"scaled down from {wanted:,} to {count:,}: {words}")


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of descriptors to the hard one; the new soft limit, `sys.maxsize` for none."""
    known = _known(partial(_rlimit, "RLIMIT_NOFILE"))
    if known is None:
        return sys.maxsize
    soft, hard = known
    ceiling = _number(_sysctl().get("kern.maxfilesperproc"))  # macOS says "no limit" and refuses more than this
    goal = min((limit for limit in (hard, ceiling) if limit is not None), default=None)
    if soft is not None and goal is not None and goal > soft:
        _known(partial(_set_descriptor_limit, goal))
    now = _soft_limit("RLIMIT_NOFILE")
    return sys.maxsize if now is None else now


def _set_descriptor_limit(soft: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


# Activity.


def _cpu_times() -> tuple[float | None, float | None, float | None]:
    """CPU seconds of all cores since the start: busy, idle, stolen."""
    words = (_read("/proc/stat") or "").partition("\n")[0].split() if _linux() else []
    ticks = [_number(word) for word in words[1:9]]
    if words[:1] == ["cpu"] and len(ticks) == 8 and None not in ticks:
        user, nice, system, idle, waiting, interrupts, soft, stolen = (float(tick or 0) / _ticks() for tick in ticks)
        return user + nice + system + interrupts + soft, idle + waiting, stolen
    times = _known(lambda: _psutil().cpu_times())
    if times is None:
        return None, None, None
    idle = float(times.idle)
    others = (getattr(times, name, 0.0) for name in ("user", "nice", "system", "interrupt", "dpc"))
    return float(sum(others)), idle, None


@cache
def _ticks() -> int:
    """/proc/stat counts in this fraction of a second."""
    return _known(lambda: os.sysconf("SC_CLK_TCK")) or 100


def _switches() -> tuple[int | None, int | None]:
    """Voluntary and involuntary context switches of this process and the children it has waited for."""
    try:
        import resource
    except ImportError:
        return None, None
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_nvcsw + children.ru_nvcsw, own.ru_nivcsw + children.ru_nivcsw


def _own_cpu() -> float:
    """CPU seconds of this process and the children it has waited for."""
    try:
        import resource
    except ImportError:
        return sum(os.times()[:4])
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def activity() -> Activity:
    """What this machine and this process have done until now: subtract two. Takes some 50 µs on Linux."""
    wall = time.perf_counter_ns()
    busy, idle, stolen = _known(_cpu_times) or (None, None, None)
    voluntary, involuntary = _known(_switches) or (None, None)
    load = _known(lambda: os.getloadavg()[0])
    return Activity(wall, busy, idle, stolen, _known(_own_cpu) or time.process_time(), voluntary, involuntary, load)


# Programs.


def _ask(*command: str, seconds: float = 2.0) -> str | None:
    """What a program prints, errors included; None if it doesn't start or takes too long. Leaves no process behind."""
    import subprocess

    quiet = {"LC_ALL": "C", "GOTOOLCHAIN": "local", "RUSTUP_AUTO_INSTALL": "0", "NO_UPDATE_NOTIFIER": "1"}
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | quiet,
            cwd=os.path.abspath(os.sep),
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        ) as child:
            try:
                answer, _ = child.communicate(timeout=seconds)
            except BaseException:  # too slow, or we are being interrupted
                _end(child.pid)
                child.kill()
                raise
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer.decode("utf-8", "replace")


def _end(group: int) -> None:
    import signal

    if hasattr(os, "killpg"):
        _known(lambda: os.killpg(group, signal.SIGKILL))


def _in_parallel(function: Callable[..., Value], arguments: list[tuple[Any, ...]]) -> list[Value]:
    """The function's results in order; a few at once, for each waits for a program."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=2 * min(4, len(cores()))) as pool:
        return list(pool.map(lambda these: function(*these), arguments))


def _stub(path: str) -> bool:
    """Is this Apple's placeholder, which opens a window that offers to install the real program?"""
    tools = ("/Library/Developer/CommandLineTools", "/Applications/Xcode.app")
    return _SYSTEM == "darwin" and path.startswith("/usr/bin/") and not any(map(os.path.isdir, tools))


_ASK_PYTHON = (
    "import sys; print(ascii((sys.implementation.name, sys.version.split()[0], tuple(sys.version_info[:3]), "
    "sys.base_prefix, bool(getattr(sys, '_is_gil_enabled', lambda: True)()), 'free-threading' in sys.version)))"
)


def _in_folder(folder: str) -> list[str]:
    """The interpreters in a folder of programs, by their usual names."""
    from re import compile

    name = compile(r"(python3(\.\d+)?t?|python(3(\.\d+)?t?)?\.exe)")
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [os.path.join(folder, found) for found in names if name.fullmatch(found)]


def _in_prefix(prefix: str) -> list[str]:
    """The interpreters of one installation."""
    return _in_folder(os.path.join(prefix, "bin")) + _in_folder(prefix)


def _prefixes_in(folder: str) -> list[str]:
    """The installations in a folder of installations."""
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    except OSError:
        return []


def _pyenv_root() -> str:
    return os.environ.get("PYENV_ROOT") or os.path.expanduser(os.path.join("~", ".pyenv"))


def _uv_folder() -> str:
    chosen = os.environ.get("UV_PYTHON_INSTALL_DIR")
    if chosen:
        return chosen
    if _SYSTEM == "win32":
        return os.path.join(os.environ.get("APPDATA", ""), "uv", "python")
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser(os.path.join("~", ".local", "share"))
    return os.path.join(data, "uv", "python")


def _conda_prefixes() -> list[str]:
    home = os.path.expanduser("~")
    names = ("miniconda3", "anaconda3", "miniforge3", "mambaforge")
    roots = [
        os.environ.get("CONDA_PREFIX", ""),
        os.environ.get("CONDA_ROOT", ""),
        *(os.path.join(home, name) for name in names),
    ]
    try:
        with open(os.path.join(home, ".conda", "environments.txt"), encoding="utf-8", errors="replace") as file:
            roots += [line.strip() for line in file][:200]
    except OSError:
        pass
    return [prefix for root in roots if root for prefix in [root, *_prefixes_in(os.path.join(root, "envs"))]]


def _python_places() -> Iterator[tuple[str, str]]:
    """Where interpreters may be: the program, and who led us to it."""
    if sys.executable:
        yield sys.executable, "this one"
    shims = os.path.realpath(os.path.join(_pyenv_root(), "shims"))  # these stand for versions that are found below
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if os.path.isabs(folder) and os.path.realpath(folder) != shims:
            yield from ((path, "PATH") for path in _in_folder(folder))
    places = [(_prefixes_in(os.path.join(_pyenv_root(), "versions")), "pyenv"), (_prefixes_in(_uv_folder()), "uv")]
    for prefixes, who in [*places, (_conda_prefixes(), "conda")]:
        for prefix in prefixes:
            yield from ((path, who) for path in _in_prefix(prefix))


def _ask_interpreter(path: str, who: str) -> tuple[tuple[Any, ...], str, Interpreter] | None:
    """Version, prefix and facts of an interpreter; None if it isn't one that works, is too old, or isn't CPython."""
    from ast import literal_eval

    answer = None if _stub(path) else _ask(path, "-I", "-S", "-c", _ASK_PYTHON)
    try:
        name, version, numbers, prefix, gil, free_threaded = literal_eval((answer or "").strip())
        if name != "cpython" or numbers < (3, 8):
            return None
        return (numbers, free_threaded), prefix, Interpreter(path, version, "CPython", gil, free_threaded, who)
    except (ValueError, SyntaxError, TypeError):
        return None


def interpreters() -> list[Interpreter]:
    """The CPython builds (3.8 and later) found on this machine, by version: PATH, pyenv, uv, conda, and this one.

    Each is asked what it is, in a start of its own of at most 2 s; those that don't answer are left out. An environment
    counts as the build that it is made from, but for this one, whose path is the one that runs now. Takes some 0.2 s.
    """
    programs: dict[str, tuple[str, str]] = {}
    for path, who in _python_places():
        real = os.path.realpath(path)
        if os.access(real, os.X_OK):
            programs.setdefault(real, (path if who == "this one" else real, who))
    found: dict[object, tuple[object, Interpreter]] = {}
    for answer in _in_parallel(_ask_interpreter, list(programs.values())):
        if answer:
            order, prefix, one = answer
            found.setdefault((os.path.realpath(prefix), order), (order, one))
    return [one for _, one in sorted(found.values(), key=lambda pair: (pair[0], pair[1].path))]


_TOOLS: dict[
    str, tuple[tuple[str, ...], str, str]
] = {  # the programs to try, what to ask, and how the version is found in the answer
    "go": (("go",), "version", r"go version go(\S+)"),
    "java": (("java",), "-version", r'version "([^"]+)"'),
    "javac": (("javac",), "-version", r"javac (\d\S*)"),
    "node": (("node",), "--version", r"^v(\d\S*)"),
    "npm": (("npm",), "--version", r"^(\d\S*)"),
    "rustc": (("rustc",), "--version", r"^rustc (\d\S*)"),
    "cargo": (("cargo",), "--version", r"^cargo (\d\S*)"),
    "cc": (("gcc", "cc"), "--version", r"(?:\) |version )(\d[\d.]*)"),
    "clang": (("clang",), "--version", r"version (\d[\d.]*)"),
    "perf": (("perf",), "--version", r"perf version (\S+)"),
    "wrk": (("wrk",), "-v", r"wrk (?:debian/)?(\S+)"),
    "psql": (("psql",), "--version", r"\(PostgreSQL\) (\d\S*)"),
    "postgres": (("postgres",), "--version", r"\(PostgreSQL\) (\d\S*)"),
}


def _tool_folders() -> str:
    """Where programs are looked for: beside this interpreter, on PATH, and where their installers put them."""
    from glob import glob

    home = os.path.expanduser("~")
    folders = [os.path.dirname(sys.executable or ""), os.environ.get("PATH", os.defpath)]
    folders += [os.path.join(os.environ[name], "bin") for name in ("JAVA_HOME", "CARGO_HOME") if os.environ.get(name)]
    folders += [os.path.join(home, ".cargo", "bin"), "/usr/local/go/bin"]
    for pattern in ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"):
        folders += sorted(glob(pattern), reverse=True)
    return os.pathsep.join(folder for folder in folders if folder)


def _find_tool(name: str, folders: str) -> Tool:
    from re import MULTILINE, search
    from shutil import which

    programs, question, pattern = _TOOLS[name]
    for program in programs:
        path = which(program, path=folders)
        answer = None if path is None or _stub(path) else _ask(path, question, seconds=5.0)
        version = search(pattern, answer or "", MULTILINE)
        if version:
            return Tool(name, version[1], path)
    return Tool(name, None, None)


def toolchains() -> list[Tool]:
    """The programs that some notebooks can use, and their versions; None for the missing, and for no answer in 5 s."""
    folders = _known(_tool_folders) or os.defpath
    return _in_parallel(_find_tool, [(name, folders) for name in _TOOLS])


# In words.


def size(count: int) -> str:
    """A number of bytes for people: 32 KiB, 1.5 GiB."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    number = f"{value:.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0")
    return f"{number} {unit}"


def _words_cores(facts: dict[str, Any]) -> str:
    online, allowed, usable = facts["cores_online"], facts["cores_allowed"], facts["cores_usable"]
    words = f"{online} core{'' if online == 1 else 's'}"
    if allowed is not None:
        words += f" ({_runs(allowed)} allowed)"
    if allowed is not None and usable is not None and usable < len(allowed):
        words += f", time of {usable:.3g} allowed"
    return words


def _runs(numbers: list[int]) -> str:
    """0, 1 as it is; 0, 1, 2, 3 as 0-3."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _words_caches(facts: dict[str, Any]) -> str:
    words = []
    for one in facts["caches"]:
        kind = "" if one["kind"] == "unified" else f" {one['kind']}"
        shared = f" shared by {one['shared_by']}" if one["shared_by"] > 1 else ""
        words.append(f"L{one['level']}{kind} {size(one['bytes'])}{shared}")
    line = facts["cache_line_bytes"]
    return ", ".join(words) + (f"; lines of {line} bytes" if line else "")


def _words_memory(facts: dict[str, Any]) -> str:
    words = [size(facts["memory_bytes"])]
    if facts["memory_limit_bytes"] is not None:
        words.append(f"{size(facts['memory_limit_bytes'])} allowed")
    if facts["memory_available_bytes"] is not None:
        words.append(f"{size(facts['memory_available_bytes'])} available")
    if facts["swap_bytes"] is not None:
        words.append(f"swap {size(facts['swap_bytes'])}" if facts["swap_bytes"] else "no swap")
    return ", ".join(words)


def _words_pages(facts: dict[str, Any]) -> str:
    words = size(facts["page_bytes"])
    if facts["huge_page_bytes"]:
        words += f", huge {size(facts['huge_page_bytes'])}"
    if facts["transparent_huge_pages"]:
        words += f" (transparent: {facts['transparent_huge_pages']})"
    return words


def _most(number: int | None) -> str:
    return "no limit" if number is None else f"{number:,}"


def _words_python(facts: dict[str, Any]) -> str:
    gil = {True: "with the GIL", False: "without a GIL", None: "GIL unknown"}[facts["gil"]]
    return f"{facts['python_implementation']} {facts['python_version']}, {gil}" + (
        ", free-threaded build" if facts["free_threaded_build"] else ""
    )


def _words_descriptors(facts: dict[str, Any]) -> str:
    return f"{_most(facts['descriptors_soft'])}, can be raised to {_most(facts['descriptors_hard'])}"


def _words_tasks(facts: dict[str, Any]) -> str:
    return f"{_most(facts['processes_max'])} processes, {_most(facts['threads_max'])} threads"


def _words_ports(facts: dict[str, Any]) -> str:
    return f"{facts['ports'][0]}-{facts['ports'][1]} to connect from"


def _words_clock(facts: dict[str, Any]) -> str:
    return f"a reading costs {facts['clock_overhead_ns']:.0f} ns; steps of {facts['clock_resolution_ns']:.3g} ns"


_ROWS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (  # label, the fact that it needs, and the words
    (
        "System",
        "system",
        lambda facts: ", ".join(filter(None, (facts["distribution"] or facts["system"], f"kernel {facts['kernel']}"))),
    ),
    ("Virtualisation", "virtualisation", lambda facts: str(facts["virtualisation"])),
    ("Processor", "cpu_model", lambda facts: str(facts["cpu_model"])),
    ("Cores", "cores_online", _words_cores),
    ("Pinning", "pinning", lambda facts: "works" if facts["pinning"] else "not possible"),
    ("Caches", "caches", _words_caches),
    ("Memory", "memory_bytes", _words_memory),
    ("Pages", "page_bytes", _words_pages),
    ("File descriptors", "descriptors_soft", _words_descriptors),
    ("At most", "threads_max", _words_tasks),
    ("Ports", "ports", _words_ports),
    ("Temporary files", "disk_free_bytes", lambda facts: f"{size(facts['disk_free_bytes'])} free"),
    ("Python", "python_version", _words_python),
    ("Clock", "clock_overhead_ns", _words_clock),
)


def describe() -> list[tuple[str, str]]:
    """The card for people: label and text of each row, `unknown: reason` where it must be."""
    facts: dict[str, Any] = card()
    unknown: dict[str, str] = facts["unknown"]
    return [(label, f"unknown: {unknown[key]}" if key in unknown else words(facts)) for label, key, words in _ROWS]
