"""Rules for every test: it is repeatable, uses only loopback, and cleans up.

* One seed per run, shown in the header; ``MESHLIB_SEED=<n>`` repeats it, for Hypothesis and the ``rng`` fixture alike.
  Workers of pytest-xdist share the seed of the process that started them.
* No Python socket sends a packet off loopback, and no name goes to the system's resolver.
* After each test outside ``tests/core`` the threads, asyncio tasks and file descriptors are the same as before it.
* A missing component skips a test, or fails it if ``CI`` or ``MESHLIB_REQUIRE_REAL`` is set: then any skip fails the
  run.
"""

import asyncio
import gc
import importlib.metadata
import inspect
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, NoReturn

import pytest
from hypothesis import Phase, settings

import meshlib
from meshlib.testing import flush_logs

# --- repeatable ----------------------------------------------------------------------

# No deadline per example: it would be an assertion on speed. The blob of a failure repeats it without the seed. No
# explain phase: it takes longer than a test may take, and shrinking is enough.
PHASES = [phase for phase in Phase if phase is not Phase.explain]
settings.register_profile("meshlib", deadline=None, print_blob=True, phases=PHASES)
settings.load_profile("meshlib")

_SEED = pytest.StashKey[int]()

# Environment variables that change what a channel does.
_FOREIGN = re.compile(
    r"(grpc_|https?_|all_|no_)proxy|OTEL_.*|GRPC_ENABLE_FORK_SUPPORT|MESHLIB_.*_ENDPOINTS|LOCALDOMAIN|RES_OPTIONS",
    re.IGNORECASE,
)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed before Hypothesis draws its own."""
    given = config.getoption("--hypothesis-seed")
    seed = int(given) if given is not None else int(os.environ.get("MESHLIB_SEED") or SystemRandom().randrange(2**32))
    config.stash[_SEED] = seed
    config.option.hypothesis_seed = seed
    for name in [name for name in os.environ if _FOREIGN.fullmatch(name)]:
        del os.environ[name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of newer Pythons: a skip would count as a missing component."""
    newer = [item for item in items if any(sys.version_info < mark.args for mark in item.iter_markers("python"))]
    if newer:
        config.hook.pytest_deselected(items=newer)
        items[:] = [item for item in items if item not in set(newer)]


def pytest_report_header(config: pytest.Config) -> str:
    """Print the facts needed to reproduce a failure."""
    grpcio = importlib.metadata.version("grpcio")
    return f"meshlib: MESHLIB_SEED={config.stash[_SEED]}, grpcio {grpcio}, from {Path(meshlib.__file__).parent}"


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """The seed of this run, as printed in the header."""
    return pytestconfig.stash[_SEED]


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> Random:
    """Randomness per test: the same for a seed, whichever tests ran before."""
    return Random(f"{seed}:{request.node.nodeid}")


# --- loopback only -------------------------------------------------------------------


def _on_loopback(host: object) -> bool:
    try:
        return host in (None, "localhost", b"localhost") or ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def _keep_to_loopback(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook that sees every Python socket, whichever library opened it. It does not see C-core's own."""
    if event in ("socket.connect", "socket.sendto", "socket.bind"):
        address = args[1]
        if isinstance(address, tuple) and isinstance(address[0], str) and not _on_loopback(address[0]):
            raise RuntimeError(f"{event} {address}: tests stay on loopback; use an address in 127.0.0.0/8 or ::1")
    elif event == "socket.getaddrinfo" and not _on_loopback(args[0]):
        raise RuntimeError(f"{event} {args[0]!r}: tests never ask the system's resolver; use the in-process DNS server")


sys.addaudithook(_keep_to_loopback)


# --- clean-up ------------------------------------------------------------------------

_DEADLINE = 20.0  # seconds for background clean-up: a socket closed by the peer, C-core on a busy machine
_POLL = 0.01  # seconds


def _file_descriptors() -> set[str]:
    """Each as ``number target``, so that a reused number counts as new. Empty without /proc."""
    folder = Path("/proc/self/fd")
    held = set()
    for name in os.listdir(folder) if folder.is_dir() else ():
        try:
            held.add(f"{name} {os.readlink(folder / name)}")
        except FileNotFoundError:  # the descriptor that listed the folder
            continue
    return held


def _threads() -> set[threading.Thread]:
    """All but the workers of a server shared by several tests: it starts them on demand."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("shared-")}


def _end_control_thread() -> None:
    """Stop the control thread. It outlives the last channel for a moment, which is not a leak."""
    control = sys.modules.get("meshlib._sync.control")
    if control is not None:
        control.current().end_unused()


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check threads and file descriptors; grpcio frees even its pollers once none of its objects is alive."""
    if _unchecked(request):
        yield
        return
    files, threads = _file_descriptors(), _threads()
    grpc_was_up = any("eventfd" in file for file in files)

    def left() -> list[str]:
        new = _file_descriptors() - files
        if grpc_was_up:  # while it is, it opens wake-up descriptors of its own at any time
            new = {file for file in new if "anon_inode:" not in file}
        return sorted(new) + sorted(repr(thread) for thread in _threads() - threads)

    yield
    flush_logs(_DEADLINE)  # no record arrives after the handlers of this test are gone
    end = time.monotonic() + _DEADLINE
    _end_control_thread()
    while leaked := left():
        if time.monotonic() > end:
            pytest.fail(f"left behind {_DEADLINE:g} s after the test: {', '.join(leaked)}", pytrace=False)
        gc.collect()  # an object held only by a cycle is not leaked
        _end_control_thread()
        time.sleep(_POLL)


@pytest.fixture(autouse=True)
def _no_task_left(_nothing_left: None, request: pytest.FixtureRequest) -> None:
    """Request the task check in tests that have a loop. The loop is created after the count of descriptors, and so
    closed before the next count."""
    test = getattr(getattr(request.function, "hypothesis", None), "inner_test", request.function)
    if inspect.iscoroutinefunction(test) and not _unchecked(request):
        request.getfixturevalue("_tasks")


@pytest.fixture
async def _tasks() -> AsyncIterator[None]:
    """Check tasks on the test's own loop; closing that loop would cancel them silently."""
    before = asyncio.all_tasks()
    yield
    end = time.monotonic() + _DEADLINE
    while leaked := asyncio.all_tasks() - before - {asyncio.current_task()}:
        if time.monotonic() > end:
            names = ", ".join(sorted(repr(task) for task in leaked))
            pytest.fail(f"still running {_DEADLINE:g} s after the test: {names}", pytrace=False)
        await asyncio.sleep(_POLL)


def _unchecked(request: pytest.FixtureRequest) -> bool:
    """Tests of the core own no resources, and there are thousands of them."""
    core = Path(__file__).parent / "core"
    return request.path.is_relative_to(core) or request.node.get_closest_marker("shares_process_state") is not None


# --- real components -----------------------------------------------------------------


def _must_be_there() -> bool:
    asked = os.environ.get("MESHLIB_REQUIRE_REAL") or os.environ.get("CI") or "0"
    return asked.lower() not in ("0", "false", "no")


@pytest.fixture(scope="session")
def require_real() -> Callable[[str, str], Path]:
    """``require_real(program, package)``: the program's path.

    If it is missing, the test is skipped; it fails if ``MESHLIB_REQUIRE_REAL`` or, in its absence, ``CI`` is set.
    """
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"]
    )

    def find(program: str, package: str) -> Path:
        found = shutil.which(program, path=path)
        return Path(found) if found else _missing(f"{program} is not installed; it comes with {package}")

    return find


def _skipped(config: pytest.Config) -> list[Any]:
    """Reports of skipped tests: only in the process that prints the summary, not in the workers of pytest-xdist."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    return list(reporter.stats.get("skipped", ())) if reporter and not hasattr(config, "workerinput") else []


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped a test although every component is required."""
    if _must_be_there() and _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say why a run without a failed test failed."""
    if _must_be_there() and (skipped := _skipped(config)):
        terminalreporter.write_line(
            f"{len(skipped)} skipped: with CI or MESHLIB_REQUIRE_REAL set, that fails the run", red=True
        )


def _missing(reason: str) -> NoReturn:
    if _must_be_there():
        pytest.fail(f"{reason} (MESHLIB_REQUIRE_REAL=0 skips instead)", pytrace=False)
    pytest.skip(reason)
