"""The public names and their signatures match a checked-in list, so that every change of them is visible."""

import ast
import dataclasses
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import meshlib.testing

UNBUILT = ("Channel", "CallMesh", "Mesh")
"""Classes that applications do not construct."""

LISTING = Path(__file__).with_name("public_names.txt")
MODULES = (
    "meshlib",
    "meshlib.aio",
    "meshlib.balancing",
    "meshlib.discovery",
    "meshlib.telemetry",
    "meshlib.testing",
)


def _public() -> Iterator[str]:
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            line = f"{module_name}.{name}"
            if inspect.isclass(value) and not issubclass(value, Exception):
                members = sorted(member for member in dir(value) if not member.startswith("_"))
                yield f"{line}{_signature(value)}: {' '.join(members)}".rstrip(": ")
            else:
                yield f"{line}{_signature(value)}"


def _signature(value: object) -> str:
    """Names and defaults; the spelling of annotations differs between Python versions.

    Not of classes that applications do not construct: those above, and protocols.
    """
    if not callable(value) or getattr(value, "_is_protocol", False) or getattr(value, "__name__", "") in UNBUILT:
        return ""
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:
        return ""
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    # The order of a set varies between runs.
    return re.sub(r"(?<=frozenset\(\{)[^}]*", _sorted, str(inspect.Signature(bare)))


def _sorted(members: re.Match[str]) -> str:
    return ", ".join(sorted(members[0].split(", ")))


def test_the_public_names_are_those_on_the_list() -> None:
    """MESHLIB_UPDATE_PUBLIC_NAMES=1 rewrites the list; the difference belongs in the changelog."""
    found = "".join(f"{line}\n" for line in _public())
    if os.environ.get("MESHLIB_UPDATE_PUBLIC_NAMES"):
        LISTING.write_text(found)
    assert found == LISTING.read_text()


def test_deprecated_names_still_work() -> None:
    """Their warnings name the replacement."""
    with pytest.warns(DeprecationWarning, match="use ServerTls"):
        from meshlib.testing import Tls
    assert Tls is meshlib.testing.ServerTls


@pytest.mark.parametrize("module_name", MODULES)
def test_every_public_name_is_documented(module_name: str) -> None:
    """Each public name has its own docstring."""
    module = importlib.import_module(module_name)
    undocumented = [
        name for name in module.__all__ if callable(getattr(module, name)) and not inspect.getdoc(getattr(module, name))
    ]
    assert undocumented == []


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("attempts/policy.py", "meshlib.RetryPolicy"),
        ("attempts/policy.py", "meshlib.HedgingPolicy"),
        ("discovery/policy.py", "meshlib.DnsPolicy"),
        ("endpoint.py", "meshlib.discovery.Resolution"),
    ],
)
def test_a_constructor_for_type_checkers_names_every_field(file: str, name: str) -> None:
    """If the annotations of arguments are wider than those of fields, none is missing."""
    module, _, short = name.rpartition(".")
    path = Path(inspect.getfile(importlib.import_module("meshlib._core.version"))).parent / file
    (init,) = [
        function
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == short
        for function in ast.walk(node)
        if isinstance(function, ast.FunctionDef) and function.name == "__init__"
    ]
    fields = dataclasses.fields(getattr(importlib.import_module(module), short))
    assert [argument.arg for argument in init.args.kwonlyargs] == [field.name for field in fields]
    defaults = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    optional = {argument.arg for argument, default in defaults if default}
    assert optional == {
        field.name
        for field in fields
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
