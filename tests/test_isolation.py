"""The checks of ``conftest.py`` work: each reports a test that breaks its rule."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PRELUDE = """
import asyncio, concurrent.futures, os, socket, sys, threading
import grpc, pytest
kept = []

def serve():
    pool = concurrent.futures.ThreadPoolExecutor(2)
    server = grpc.server(pool)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return pool, server, f"ipv4:127.0.0.1:{port}"
"""

CLEAN = """
def test_sync():
    pool, server, target = serve()
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/a/b")(b"")
    server.stop(0).wait(5)
    pool.shutdown()

async def test_asyncio():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"ipv4:127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.RpcError):
            await channel.unary_unary("/a/b")(b"")
    await server.stop(0)

async def test_task_that_ends_soon():
    kept.append(asyncio.create_task(asyncio.sleep(0.2)))

def test_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a test file under the real ``conftest.py`` and the real settings, and return pytest's output."""
    tests = Path(__file__).parent
    (tmp_path / "tests").mkdir()
    shutil.copy(tests / "conftest.py", tmp_path / "tests")
    shutil.copy(tests.parent / "pyproject.toml", tmp_path)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # of our worker

    def run(source: str, *arguments: str, **environment: str) -> str:
        # Half a second is enough for anything that ends by itself here, and a short wait for the rest.
        source = f"{PRELUDE}\nsys.modules['tests.conftest']._DEADLINE = 0.5\n{source}"
        (tmp_path / "tests" / "test_planted.py").write_text(source, encoding="utf-8")
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=tmp_path,
            env={**outside, "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        return f"{result.stdout}{result.stderr}exit code {result.returncode}"

    return run


def test_what_ends_passes(run: Callable[..., str]) -> None:
    """Closed servers, channels, tasks and sockets are not reported."""
    assert "4 passed" in run(CLEAN)


LEAVES = {
    "Thread(stray": "threading.Thread(target=threading.Event().wait, name='stray', daemon=True).start()",
    "/dev/null": "kept.append(os.open(os.devnull, os.O_RDONLY))",
    "socket:[": "kept.append(socket.create_server(('127.0.0.1', 0)))",
    "eventpoll": "kept.append(grpc.insecure_channel('ipv4:127.0.0.1:1')); kept[-1].unary_unary('/a/b').future(b'')",
    "(_serve)": "kept.append(serve())",  # last: while a grpc object is alive, wake-up descriptors are not counted
}


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_what_is_left_behind_is_named(run: Callable[..., str], kind: str) -> None:
    """A thread, a file, a socket, a channel or a server that outlives its test fails it, by name."""
    output = run("\n".join(f"{kind} test_{n}():\n    {body}" for n, body in enumerate(LEAVES.values())))
    assert f"{len(LEAVES)} passed, {len(LEAVES)} errors" in output
    reports = [line for line in output.splitlines() if line.startswith("left behind")]
    for expected, report in zip(LEAVES, reports, strict=True):
        assert expected in report


def test_a_task_left_behind_is_named(run: Callable[..., str]) -> None:
    """A task that outlives its test fails it, though the loop would cancel it silently."""
    output = run("async def test_it():\n    kept.append(asyncio.create_task(asyncio.sleep(99), name='stray'))")
    assert "1 passed, 1 error" in output
    assert "still running 0.5 s after the test: <Task pending name='stray'" in output


def test_a_marked_test_is_let_off(run: Callable[..., str]) -> None:
    """The marker turns the check off for tests that give a reason."""
    output = run("@pytest.mark.shares_process_state\ndef test_it():\n    kept.append(os.open(os.devnull, os.O_RDONLY))")
    assert "1 passed" in output
    assert "error" not in output


ABROAD = (
    "with socket.socket() as s: s.connect(('192.0.2.1', 53))",
    "with socket.socket(type=socket.SOCK_DGRAM) as s: s.sendto(b'', ('192.0.2.1', 53))",
    "with socket.socket() as s: s.bind(('', 0))",
    "socket.getaddrinfo('example.org', 80)",
)


def test_leaving_loopback_raises(run: Callable[..., str]) -> None:
    """Connecting, sending, listening beyond loopback and using the system's resolver all raise."""
    output = run("\n".join(f"def test_{n}():\n    {body}" for n, body in enumerate(ABROAD)))
    assert f"{len(ABROAD)} failed" in output
    assert output.count(" - RuntimeError: socket.") == len(ABROAD)


def test_the_seed_is_printed_and_repeats(run: Callable[..., str]) -> None:
    """The header's seed, passed again, repeats the draws of ``rng`` and of Hypothesis."""
    source = """
from hypothesis import given, settings, strategies
drawn = []

@settings(max_examples=5)
@given(strategies.integers())
def test_hypothesis(number):
    drawn.append(number)

def test_rng(rng):
    pytest.fail(f"drew {rng.random()} {drawn}")
"""
    first, again, other = (run(source, MESHLIB_SEED=seed) for seed in ("1", "1", "2"))

    def drew(output: str) -> str:
        return next(line for line in output.splitlines() if "Failed: drew" in line)

    assert "MESHLIB_SEED=1," in first
    assert drew(first) == drew(again) != drew(other)


@pytest.mark.parametrize(
    ("environment", "outcome"),
    [
        ({"CI": "true"}, "1 error"),
        ({"CI": "", "MESHLIB_REQUIRE_REAL": "1"}, "1 error"),
        ({"CI": "true", "MESHLIB_REQUIRE_REAL": "0"}, "1 skipped"),
        ({"CI": "", "MESHLIB_REQUIRE_REAL": ""}, "1 skipped"),
    ],
)
def test_a_missing_component_skips_or_fails(run: Callable[..., str], environment: dict[str, str], outcome: str) -> None:
    """A missing component is a failure if the environment requires it."""
    source = """
@pytest.fixture(scope="module")
def component(require_real):
    return require_real("no-such-program", "a package")

def test_it(component):
    pass
"""
    output = run(source, **environment)
    assert outcome in output
    assert "no-such-program is not installed; it comes with a package" in output


SKIPS = """
def test_it():
    pytest.skip("no reason")

def test_other():
    pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_skip_fails_the_run_in_ci(run: Callable[..., str], ci: str, code: int, workers: str) -> None:
    """If every component is required, a skip fails the run, with and without workers."""
    output = run(SKIPS, f"-n{workers}", CI=ci, MESHLIB_REQUIRE_REAL="")
    assert "1 passed, 1 skipped" in output
    assert ("1 skipped: with CI or MESHLIB_REQUIRE_REAL set, that fails the run" in output) == bool(code)
    assert output.endswith(f"exit code {code}")


def test_a_test_of_a_newer_python_is_not_collected(run: Callable[..., str]) -> None:
    """Deselected, not skipped, so that a run on an older Python has no skip."""
    output = run(
        "@pytest.mark.python(3, 11)\ndef test_today():\n    pass\n\n"
        "@pytest.mark.python(99, 0)\ndef test_later():\n    pass\n",
        CI="true",
    )
    assert "1 passed, 1 deselected" in output
    assert output.endswith("exit code 0")


def test_workers_share_the_seed_and_check_themselves(run: Callable[..., str]) -> None:
    """Each worker of pytest-xdist has the seed of the header, and names what a test leaked in its process."""
    source = """
@pytest.mark.parametrize("n", range(4))
def test_it(n, seed):
    kept.append(os.open(os.devnull, os.O_RDONLY))
    pytest.fail(f"seed {seed}, worker {os.environ['PYTEST_XDIST_WORKER']}")
"""
    output = run(source, "-n2", "--dist=load", MESHLIB_SEED="77")
    assert "MESHLIB_SEED=77," in output
    assert output.count("Failed: seed 77, worker gw0") == output.count("Failed: seed 77, worker gw1") > 0
    assert output.count("left behind 0.5 s after the test: ") >= 4
    assert "4 failed, 4 errors" in output
