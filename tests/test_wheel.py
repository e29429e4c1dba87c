"""The tests import this checkout's code: in scripts/test and scripts/matrix, from the wheel that they have built.

Elsewhere the package may be installed as editable, or ``src`` may be on the path.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

import pytest

import meshlib

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "meshlib"
IMPORTED = Path(meshlib.__file__).parent
SITE = Path(sysconfig.get_path("purelib"))
WHEEL = os.environ.get("MESHLIB_WHEEL")
"""The wheel that the script has built in this run."""


def contents(package: Path) -> dict[str, bytes]:
    """Every file of a package, but for compiled code."""
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in files}


def packed(wheel: str) -> dict[str, bytes]:
    """Every file of the package in a wheel."""
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("meshlib/")]
        return {name.removeprefix("meshlib/"): archive.read(name) for name in names}


def differing(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    """Names of files that are missing on one side or differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def test_the_imported_package_is_this_checkout() -> None:
    """Every file of the checkout is in the imported package, with the same contents, and nothing else is."""
    assert "py.typed" in contents(SOURCE)
    assert differing(contents(IMPORTED), contents(SOURCE)) == []


def test_the_wheel_of_this_run_is_imported() -> None:
    """If a wheel was built, the package is in site-packages, equals the wheel, and ``src`` is not on the path."""
    if WHEEL is None:
        assert IMPORTED in (SOURCE, SITE / "meshlib")
        return
    assert IMPORTED == SITE / "meshlib"
    assert differing(packed(WHEEL), contents(IMPORTED)) == []
    assert SOURCE.parent not in [Path(entry).resolve() for entry in sys.path]


@pytest.mark.parametrize("path", [None, os.pathsep.join(sys.path)], ids=["inherited", "our sys.path"])
def test_a_child_process_imports_the_same_package(path: str | None) -> None:
    """A child process has the same meshlib as its parent, in the two ways in which tests start one."""
    environment = os.environ | ({} if path is None else {"PYTHONPATH": path})
    command = [sys.executable, "-c", "import meshlib; print(meshlib.__file__)"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == meshlib.__file__


def test_a_stale_or_incomplete_package_is_noticed(tmp_path: Path) -> None:
    """A changed, a missing and a left-over file are each named."""
    for name, text in {"same.py": "1", "changed.py": "1", "left_over.py": "1"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "same.pyc").write_text("compiled")
    checkout = {"same.py": b"1", "changed.py": b"2", "missing.py": b"1"}
    assert differing(contents(tmp_path), checkout) == ["changed.py", "left_over.py", "missing.py"]
