"""Programs that call while the interpreter exits, or leave channels open then: they are answered, and end in silence.

``nox -s exits`` runs each of them several times, on every Python.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from meshlib.testing import DnsServer, ProcessServer

PROGRAM = Path(__file__).with_name("exit_child.py")
TIMES = int(os.environ.get("MESHLIB_EXITS") or 1)
PATIENCE = 60.0
"""Seconds after which a program that has not ended hangs."""

ANSWERS = {
    "unary": "b'x'",
    "future": "b'x'",
    "stream": "[b'x', b'x', b'x']",
    "upload": "b'xy'",
    "bidi": "[b'x', b'y']",
}

FIRST = [  # the first call of a process, in a handler that was registered after the import, or before
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
LATER = [  # answers before the exit and in it
    ("warm", "unary", "hosts"),
    ("warm", "future", "static"),
    ("warm", "stream", "static"),
    ("warm", "bidi", "static"),
    ("early-warm", "unary", "named"),
    ("early-warm", "stream", "dns"),
    ("worker", "future", "static"),
    ("fork", "unary", "static"),
]
OPEN = [  # nothing is called at the exit, and nothing is closed before
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
    """A program, and how often it has to answer."""

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
    """The server is in a process of its own, so that no program waits for this one."""
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


def ended(world: World, case: Case) -> str:
    """What was wrong with a run of ``case``; empty: nothing."""
    command = [sys.executable, str(PROGRAM), case.program, case.kind, world.targets[case.where]]
    try:
        run = subprocess.run(
            command, env=world.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        return f"{case}: has not ended after {PATIENCE:g} s: {error.stdout!r} {error.stderr!r}"
    found = (run.returncode, run.stdout.splitlines(), run.stderr)
    wanted = (case.status, [ANSWERS[case.kind]] * case.answers, "")
    return "" if found == wanted else f"{case}: {found}"


@pytest.mark.timeout(120 + 60 * TIMES)
@pytest.mark.parametrize("cases", [FIRST, LATER, OPEN, STATUS], ids=["first", "later", "open", "status"])
def test_programs_are_answered_and_end_in_silence(cases: list[tuple[str, str, str]], world: World) -> None:
    """Every answer comes, standard error stays empty, the exit status is the program's own, and no exit hangs."""
    chosen = [case for case in CASES if case[:3] in cases]
    with ThreadPoolExecutor(4) as pool:
        wrong = [found for found in pool.map(lambda case: ended(world, case), chosen * TIMES) if found]
    assert not wrong, f"{len(wrong)} of {len(chosen) * TIMES}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("kind", ["unary", "future", "stream"])
def test_a_call_in_the_middle_of_the_loop_that_would_serve_it(kind: str, world: World) -> None:
    """At the exit one thread does everything: without a deadline such a call fails, with one it ends at that, and the
    call beneath is answered."""
    command = [sys.executable, str(PROGRAM), "nested", kind, world.targets["named"]]
    run = subprocess.run(
        command, env=world.environment, capture_output=True, text=True, timeout=PATIENCE / 4, check=False
    )
    ends = [str(("UNAVAILABLE", True)), str(("DEADLINE_EXCEEDED", True))]
    assert (run.returncode, run.stdout.splitlines(), run.stderr) == (0, [*ends, ANSWERS[kind]], "")
