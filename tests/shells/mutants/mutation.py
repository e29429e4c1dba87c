"""A shell with one fault planted in it: a copy in memory, made from its source with one place changed.

The shell in use is unaffected: the copy is imported beside it, and earlier imports are restored.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.shells.shells import WORLDS

__all__ = ["Mutant", "planted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A fault.

    Args:
        name: the fault, in words.
        module: of the shell.
        old: the source that is changed; it occurs once.
        new: its replacement.
        kinds: the worlds that show it.
    """

    name: str
    module: str
    old: str
    new: str
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


@contextmanager
def planted(shell: str, mutant: Mutant) -> Iterator[Any]:
    """The shell ``"sync"`` or ``"aio"`` with the fault in it, for its world."""
    package = f"meshlib._{shell}"
    finder = _Finder(f"{package}.{mutant.module}", mutant)
    # These two have per-process state, and are imported by no others.
    kept = {f"{package}.{name}" for name in ("clock", "control")} - {finder.fullname}
    before = {
        name: module
        for name, module in sys.modules.items()
        if (name == package or name.startswith(f"{package}.")) and name not in kept
    }
    for name in before:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        modules = [import_module(f"{package}.{name}") for name in ("channel", "control")]
        assert finder.used, f"{finder.fullname} is not imported by the channel"
        yield WORLDS[shell].Shell(*modules)
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            if name not in kept:
                del sys.modules[name]
        sys.modules.update(before)
        setattr(import_module("meshlib"), f"_{shell}", before[package])


class _Finder(MetaPathFinder):
    """Finds the changed module."""

    def __init__(self, fullname: str, mutant: Mutant) -> None:
        self.fullname = fullname
        self.used = False
        spec = find_spec(fullname)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        found = source.count(mutant.old)
        if found != 1:
            raise LookupError(
                f"the fault {mutant.name!r} is planted where {fullname} says {mutant.old!r}, once; it is there {found} "
                "times: plant the same fault in the present code"
            )
        self._loader = _Loader(spec.origin, source.replace(mutant.old, mutant.new))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.fullname:
            return None
        self.used = True
        return spec_from_loader(fullname, self._loader)


class _Loader(SourceLoader):
    """Loads a module from text."""

    def __init__(self, origin: str, source: str) -> None:
        self._origin = f"{origin} with a fault"
        self._source = source

    def get_filename(self, fullname: str) -> str:
        return self._origin

    def get_data(self, path: str | bytes) -> bytes:
        return self._source.encode()
