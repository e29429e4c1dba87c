"""The claims about balancing in the pages and the example are correct."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "balancing"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the folder of the example, with the meshlib of this run."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLE,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=False,
    )


def test_the_page() -> None:
    """Every line with a prompt in the how-to gives the printed result."""
    failures, tried = doctest.testfile(str(ROOT / "docs" / "howto" / "balancing.md"), module_relative=False)
    assert (failures, tried > 0) == (0, True)


def test_the_unit_test_of_the_example() -> None:
    """It passes in the reader's folder."""
    ended = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_own_balancer.py")
    assert ended.returncode == 0, ended.stdout
