"""Programs that call while the interpreter exits, or leave channels open then: they are answered, and end in silence.

``nox -s exits`` runs each of them several times, on every Python, and checks how long their exits take.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from meshlib.testing import DnsServer, ProcessServer

PROGRAM = Path(__file__).with_name("exit_child.py")
TIMES = int(os.environ.get("MESHLIB_EXITS") or 1)
PATIENCE = 60.0
"""Seconds after which a running program counts as hung."""
LONGEST = 3.0
"""Seconds an exit may take; only a separate session checks it, because a test beside others would measure the others.
"""

ANSWERS = {
    "unary": "b'x'",
    "future": "b'x'",
    "stream": "[b'x', b'x', b'x']",
    "upload": "b'xy'",
    "bidi": "[b'x', b'y']",
}

FIRST = [  # the first call of a process, in a handler registered after the import, or before
    ("first", "unary", "env"),
    ("first", "future", "static"),
    ("first", "stream", "hosts"),
    ("first", "bidi", "dns"),
    ("first", "unary", "named"),
    ("early", "unary", "dns"),
    ("early", "future", "named"),
    ("early", "stream", "env"),
    ("early", "upload", "hosts"),
    ("finalize", "unary", "static"),
    ("del", "unary", "static"),
]
LATER = [  # answers before the exit and during it
    ("warm", "unary", "hosts"),
    ("warm", "future", "static"),
    ("warm", "stream", "static"),
    ("warm", "bidi", "static"),
    ("early-warm", "unary", "named"),
    ("early-warm", "stream", "dns"),
    ("worker", "future", "static"),
    ("fork", "unary", "static"),
]
OPEN = [  # no call at exit, and no close before
    ("open", "unary", "dns"),
    ("flight", "unary", "static"),
    ("daemons", "unary", "static"),
    ("close", "unary", "static"),
    ("log", "unary", "static"),
    ("aio", "unary", "dns"),
    ("aio-flight", "unary", "static"),
]
STATUS = [("status", "unary", "static"), ("term", "unary", "static"), ("at once", "unary", "static")]


class Case(NamedTuple):
    """A program, and the number of answers to expect."""

    program: str
    kind: str
    where: str
    answers: int
    status: int = 0


CASES = [
    *(Case(*case, 1) for case in FIRST),
    *(Case(*case, 2) for case in LATER),
    *(Case(*case, 1) for case in OPEN),
    *(Case(*case, 2 if case[0] == "status" else 1, 7) for case in STATUS),
]


class World(NamedTuple):
    """A server, under several names."""

    targets: dict[str, str]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """The server has its own process, so that no program waits for this one."""
    with ProcessServer() as server, DnsServer() as dns:
        host, port = server.address.split(":")
        dns.add("svc.mesh.test", "A", host)
        targets = {
            "env": "svc-exits",
            "static": f"static:///{server.address}",
            "hosts": f"localhost:{port}",
            "dns": f"dns://{dns.address}/svc.mesh.test:{port}",
            "named": f"named:///{server.address}",
        }
        path = os.pathsep.join(sys.path)
        yield World(targets, {**os.environ, "MESHLIB_SVC_EXITS_ENDPOINTS": server.address, "PYTHONPATH": path})


class Run(NamedTuple):
    """How a program ended."""

    status: int
    out: list[str]
    errors: str
    seconds: float
    """From the end of its last statement to that of its process; 0: it did not reach that."""


def run(world: World, arguments: list[str], patience: float = PATIENCE) -> Run:
    """Run a program to its end.

    Raises:
        subprocess.TimeoutExpired: it did not end.
    """
    began, told = os.pipe()
    try:
        found = subprocess.run(
            [sys.executable, str(PROGRAM), *arguments],
            env={**world.environment, "EXIT_BEGAN": str(told)},
            pass_fds=(told,),
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
        now = time.monotonic()
    finally:
        os.close(told)
        at = os.read(began, 100)
        os.close(began)
    seconds = now - float(at) if at else 0.0
    return Run(found.returncode, found.stdout.splitlines(), found.stderr, seconds)


def ended(world: World, case: Case) -> str:
    """The failure of a run of ``case``; empty: none."""
    try:
        found = run(world, [case.program, case.kind, world.targets[case.where]])
    except subprocess.TimeoutExpired as error:
        return f"{case}: has not ended after {PATIENCE:g} s: {error.stdout!r} {error.stderr!r}"
    if TIMES > 1 and found.seconds > LONGEST:
        return f"{case}: its exit took {found.seconds:.1f} s"
    wanted = (case.status, [ANSWERS[case.kind]] * case.answers, "")
    return "" if found[:3] == wanted else f"{case}: {found}"


@pytest.mark.timeout(120 + 60 * TIMES)
@pytest.mark.parametrize("cases", [FIRST, LATER, OPEN, STATUS], ids=["first", "later", "open", "status"])
def test_programs_are_answered_and_end_in_silence(cases: list[tuple[str, str, str]], world: World) -> None:
    """Every answer arrives, standard error stays empty, the exit status is the program's own, and no exit hangs."""
    chosen = [case for case in CASES if case[:3] in cases]
    with ThreadPoolExecutor(4) as pool:
        wrong = [found for found in pool.map(lambda case: ended(world, case), chosen * TIMES) if found]
    assert not wrong, f"{len(wrong)} of {len(chosen) * TIMES}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("kind", ["unary", "future", "stream"])
def test_a_call_in_the_middle_of_the_loop_that_would_serve_it(kind: str, world: World) -> None:
    """At exit one thread does everything: without a deadline such a call fails, with one it ends at that, and the outer
    call is answered."""
    found = run(world, ["nested", kind, world.targets["named"]], PATIENCE / 4)
    ends = [str(("UNAVAILABLE", True)), str(("DEADLINE_EXCEEDED", True))]
    assert found[:3] == (0, [*ends, ANSWERS[kind]], "")
