"""Every example runs, ends, and prints the output of its README."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlib.testing import servers

EXAMPLES = Path(__file__).parents[3] / "examples"

PROGRAMS = {
    "dropin/client.py": r"b'hello'",
    "srv_services/services.py": (
        r"a-\d > b-\d > c-\d\n"
        r"all are up: .*c-1 \d+, c-2 \d+\n"
        r"c-1 is gone: .*, b-2 \d+, c-2 40\n"
        r"c-3 was added: .*c-3 \d+"
    ),
    "asyncio/client.py": (
        r"100 answers, in order: True\n"
        r"\[b'tick', b'tick', b'tick'\]\n"
        r"3 hosts, 101 calls answered\n"
        r"UNIMPLEMENTED 1 UNIMPLEMENTED is not retried"
    ),
    "lifespan/app.py": r"\['hello ada', 'hello grace'\]\n\{'instances': 2, 'unreachable': 0\}",
    "gunicorn_preload/prefork.py": (
        r"master: IDLE, 0 hosts\n"
        r"workers served \[20, 20, 20\] of 20 requests each\n"
        r"master served 20\n"
        r"a worker forked after that served 20"
    ),
    "tls/tls.py": (
        r"both verified: in private\n"
        r"another name leads to the same server: UNAVAILABLE\n"
        r"a CA that did not sign it: UNAVAILABLE\n"
        r"no certificate of the client: UNAVAILABLE"
    ),
    "own_resolver/own_resolver.py": (
        r"one instance: \[1, 0, 0\]\n"
        r"three instances, all called: True\n"
        r"one was taken out, and is called no more: True"
    ),
    "tracing/tracing.py": (
        r"meshlib meshlib.testing.Echo/Unary OK\n(    pick \{\}\n)?"
        r"meshlib meshlib.testing.Echo/Unary OK\n"
        # Once or twice: if the other instance is not connected yet, the same one is retried.
        r"(    load .*'UNAVAILABLE'.*\n    retry .*\n    in_flight .*'retry'.*\n){1,2}"
        r"every attempt carried the context of its span: True [34]"
    ),
    "attempts/attempts.py": (
        r"service_config\.retryThrottling\.tokenratio=1: unknown field; .*did you mean 'tokenRatio'\?\n"
        r"UNAVAILABLE\n"
        r"  first on .*: UNAVAILABLE after .* s\n"
        r"(  retry on .*: UNAVAILABLE after .* s\n){2}"
        r"given up: retries throttled: too many attempts failed \(retryThrottling\)\n"
        r"the next call has 1 attempt\n"
        r"four good calls later there are retries again: \['first', 'retry', 'retry'\]"
    ),
    "health/health.py": (
        r"READY, and ejected for 5 gateway failures in a row, last=UNAVAILABLE\n"
        r"of the next 50 calls it had 0\n"
        r"its time was over, and it is called again\n"
        r"healthy hosts ejected: 1; no more, for one of three is the most that may be"
    ),
    "limits/limits.py": (
        r"4 in flight, 6 refused\n"
        r"circuit breaker open: max_requests=4\n"
        r"never sent: True\n"
        r"busy, please try again\n"
        r"the service is back: 4 answers\n"
        r"and the next call is let through\n"
        r"refused in all: 7"
    ),
    "drain/drain.py": (
        r"out of DNS: no call is left on it but the chat\n"
        r"the chat goes on: b'still here\?'\n"
        r"and ends as it wishes: \[\], OK\n"
        r"the server has stopped; calls: \['answered'\]"
    ),
    "priorities/priorities.py": (
        r"strict, as RFC 2782 has it\n"
        r"  all are up: near 300, far 0\n"
        r"  one near server is gone: near 300, far 0\n"
        r"  both are gone: near 0, far 300\n"
        r"  they are back: near 300, far 0\n"
        r"with overprovisioning, as Envoy has it\n"
        r"  all are up: near 300, far 0\n"
        r"  one near server is gone: near (1[6-9]|2[0-5])\d, far ([5-9]|1[0-3])\d\n"
        r"  both are gone: near 0, far 300\n"
        r"  they are back: near 300, far 0"
    ),
    "balancing/own_balancer.py": r"all are up: near .*, far .*\na near one is gone: near .*, far .*",
}
FORK_WITH_THREADS = "default:This process:DeprecationWarning"
"""Python 3.12 and later warn of it; an error would be raised in the parent, with the child already running."""
SUITES = ["balancing/test_own_balancer.py", "testing/test_app.py"]


@pytest.fixture(scope="module")
def svc_a() -> Iterator[str]:
    """Two servers for the example without its own, as the value of MESHLIB_SVC_A_ENDPOINTS."""
    with servers(2, name="shared-svc-a") as instances:
        yield ",".join(server.address for server in instances)


def run(arguments: list[str | Path], folder: Path, **variables: str) -> str:
    """The standard output of a program, which must succeed, soon, and without a warning."""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    environment.update(variables, PYTHONPATH=os.pathsep.join(sys.path), PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", FORK_WITH_THREADS, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_prints_what_it_should(program: str, svc_a: str, tmp_path: Path) -> None:
    """Examples run from another folder, in a process of their own."""
    variables = {"MESHLIB_SVC_A_ENDPOINTS": svc_a} if program.startswith("dropin/") else {}
    assert re.fullmatch(PROGRAMS[program], run([EXAMPLES / program], tmp_path, **variables).strip())


@pytest.mark.parametrize("suite", SUITES)
def test_the_tests_of_an_example_pass(suite: str) -> None:
    """The tests run as their README says, in their folder, with only meshlib's plug-in installed."""
    folder, _, name = suite.partition("/")
    options = ["-q", "-p", "no:cacheprovider", "-p", "meshlib.testing.plugin"]
    told = run(["-m", "pytest", *options, name], EXAMPLES / folder, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert " passed" in told


def test_every_folder_is_run_and_explained() -> None:
    """Every example has a README, a line in the list of examples, and a run here; scripts/demo runs the demo."""
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    listed = set(re.findall(r"^\| \[(\w+)\]", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == folders
    assert {name.partition("/")[0] for name in (*PROGRAMS, *SUITES)} | {"demo"} == folders
    assert [name for name in folders - {"demo"} if not (EXAMPLES / name / "README.md").is_file()] == []
