"""Shared code of the scripts and ``noxfile.py``: finding a Python, virtual environments in ``.venvs/``, and stages.

Any ``python3`` reads this file, so it must parse on old Pythons.
"""

import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = "scripts/" + os.path.basename(sys.argv[0] or "test")
STAGE_TIMEOUT = 1800  # seconds
NO_TESTS = 5  # pytest's exit code if it collected nothing
MOST_WORKERS = 8
PROBE = """
import ensurepip, sys, venv
if sys.version_info[:2] >= (3, 11) and sys.version_info.releaselevel == "final":
    print("%d.%d" % sys.version_info[:2], sys.executable)
"""


# --- Pythons -------------------------------------------------------------------------


def probe(command):
    """Return ``(version, path)`` of a Python that is new enough and can make environments, or None."""
    try:
        run = subprocess.run(
            [command, "-I", "-c", PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version, _, path = run.stdout.decode().strip().partition(" ")
    return (version, path) if run.returncode == 0 and version else None


def pythons():
    """Return the default version, and the path of one Python for each minor version."""
    asked = os.environ.get("PYTHON")
    default = probe(asked or "python3")
    if asked and not default:
        sys.exit(f"{SCRIPT}: PYTHON={asked} is no Python >= 3.11 that can make virtual environments")
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    commands = [*(f"python3.{minor}" for minor in range(11, 20)), *sorted(glob.glob(f"{root}/versions/*/bin/python"))]
    found = {}
    for version, path in filter(None, [default, *map(probe, commands)]):
        found.setdefault(version, path)
    if not found:
        sys.exit(
            f"{SCRIPT}: found no Python >= 3.11 that can make virtual environments "
            "(on Debian: apt install python3-venv); set PYTHON to the path of one"
        )
    newest = max(found, key=lambda version: int(version.split(".")[1]))
    return default[0] if default else newest, found


# --- dependencies --------------------------------------------------------------------


def lowest():
    """Return every runtime dependency, pinned at the lower bound of its range: ``["grpcio==1.84", ...]``."""
    with open(os.path.join(ROOT, "pyproject.toml")) as file:
        project = file.read()
    block = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL).group(1)
    return re.sub(r">=([^,\s]+).*", r"==\1", "\n".join(re.findall(r'^ *"([^"]+)"', block, re.MULTILINE))).split()


def floor():
    """Return grpcio alone, pinned at its lower bound."""
    return [pin for pin in lowest() if pin.startswith("grpcio==")]


# --- tests ---------------------------------------------------------------------------


def side_by_side():
    """Return pytest arguments: a worker per core and one more, since many tests wait; not those marked ``alone``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ["-n", str(min(cores + 1, MOST_WORKERS)), "--dist=worksteal", "-m", "not alone"]


# --- stages --------------------------------------------------------------------------


class Stages:
    """Run commands without a terminal, silent on success. The first that fails ends the script."""

    def __init__(self, scratch):
        self.log = os.path.join(scratch, "log")
        self.env = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        }
        self.env.update(
            PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_ROOT_USER_ACTION="ignore", PYRIGHT_PYTHON_IGNORE_WARNINGS="1"
        )

    def run(self, title, *commands, passing=(0,)):
        """Run one stage; print its output if it fails."""
        start = time.monotonic()
        with open(self.log, "w+b") as log:
            for command in commands:
                try:
                    code = self.call(command, log)
                except subprocess.TimeoutExpired:
                    code = f"not done after {STAGE_TIMEOUT} s"
                if code not in passing:
                    log.seek(0)
                    print(log.read().decode(errors="replace"))
                    sys.exit(f"{SCRIPT}: {title} failed ({code}): {' '.join(command)}")
            log.seek(0)
            last = log.read().decode(errors="replace").strip().rpartition("\n")[2].strip("= ")
        summary = last if re.search(r"\d (passed|tests collected|% of)", last) else ""
        print(f"{title:<16} {time.monotonic() - start:4.0f} s  {summary}".rstrip(), flush=True)

    def call(self, command, out):
        """Return the exit code of one command; ``out`` None passes its output through."""
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT if out else None,
            env=self.env,
            cwd=ROOT,
            timeout=STAGE_TIMEOUT,
            check=False,
        ).returncode


def environment(stages, version, path, groups, pins=(), name=None, project=(".",)):
    """Return the bin folder of .venvs/<name>, with the project, its dependencies and the dependency groups.

    The project is installed as it was when the environment was made: ``install_wheel`` follows, where that matters.
    """
    name = name or version
    folder = os.path.join(ROOT, ".venvs", name)
    program = os.path.join(folder, "bin", "python")
    stamp_path = os.path.join(folder, "stamp")
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        stamp = " ".join([hashlib.sha256(file.read()).hexdigest(), path, ROOT, *project, *groups, *pins])
    try:
        with open(stamp_path) as file:
            fits = file.read() == stamp
    except OSError:
        fits = False
    if os.environ.get("FRESH") or not fits:
        shutil.rmtree(folder, ignore_errors=True)
        pip = [program, "-m", "pip", "install", "-q"]
        stages.run(
            f"venv {name}",
            [path, "-m", "venv", folder],
            [*pip, "--upgrade", "pip>=25.1"],  # the first version that reads dependency groups
            [*pip, *project, *pins, *(f"--group={group}" for group in groups)],
        )
        with open(stamp_path, "w") as file:
            file.write(stamp)
    return os.path.join(folder, "bin")


def install_wheel(stages, programs, folder):
    """Install the wheel of this checkout, built once in a run, over the one that the environment has.

    The version is the same from commit to commit, so pip would keep an older build. The tests find the wheel in
    MESHLIB_WHEEL, and fail if they import anything else (tests/test_wheel.py).
    """
    python = os.path.join(programs, "python")
    pip = [python, "-m", "pip"]
    built = os.path.join(folder, "*.whl")
    build = [] if glob.glob(built) else [[*pip, "wheel", "-q", "--no-deps", "--wheel-dir", folder, "."]]
    install = [*pip, "install", "-q", "--force-reinstall", "--no-deps", "--no-index", "--find-links", folder]
    stages.run("wheel", *build, [*install, "meshlib-grpc"], [python, "-W", "error", "-c", "import meshlib"])
    [stages.env["MESHLIB_WHEEL"]] = glob.glob(built)
