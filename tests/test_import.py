"""Modules that ``import meshlib`` loads, and modules that the first channel loads: the import must be fast."""

import os
import subprocess
import sys

import pytest


def _ran(program: str) -> list[str]:
    """The words printed by a separate Python process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return ran.stdout.split()


@pytest.mark.parametrize("module", ["meshlib", "meshlib.aio"])
def test_the_import_loads_the_policies_alone(module: str) -> None:
    """The import loads neither the code that serves calls nor a package that grpc has not loaded itself."""
    loaded = _ran(f"import grpc, sys; before = set(sys.modules); import {module}; print(*set(sys.modules) - before)")
    ours = {name for name in loaded if name.startswith("meshlib._")}
    assert "meshlib._core.policy" in ours
    control = {name for name in ours if not name.startswith("meshlib._core")}
    assert control == {"meshlib._control", "meshlib._control.arguments"}
    assert not {"meshlib._core.call", "meshlib._core.cluster"} & ours
    others = {name.partition(".")[0] for name in loaded} - {"meshlib"}
    assert others <= set(sys.stdlib_module_names)
    assert "importlib.metadata" not in loaded


@pytest.mark.parametrize(("module", "shell"), [("meshlib", "_sync"), ("meshlib.aio", "_aio")])
def test_channel_is_the_class_of_channels_all_the_same(module: str, shell: str) -> None:
    """``isinstance(x, meshlib.Channel)`` works before and after the first channel; unknown names still raise."""
    program = f"""
import importlib, sys
module = importlib.import_module("{module}")
print("Channel" in dir(module), hasattr(module, "Chanel"), module.Channel.__module__)
print(type(module.channel("static:///127.0.0.1:1")) is module.Channel)
"""
    assert _ran(program) == ["True", "False", f"meshlib.{shell}.channel", "True"]


SUBMODULES = ("aio", "balancing", "discovery", "telemetry", "testing")


@pytest.mark.parametrize("name", SUBMODULES)
def test_a_submodule_is_reachable_after_import_meshlib(name: str) -> None:
    """A submodule is loaded on first access."""
    program = f"""
import sys, meshlib
print("meshlib.{name}" in sys.modules, "{name}" in dir(meshlib))
print(meshlib.{name}.__name__, meshlib.{name}.__all__[0])
"""
    loaded, listed, module, first = _ran(program)
    assert (loaded, listed, module) == ("False", "True", f"meshlib.{name}")
    assert first


def test_every_public_name_of_the_package_resolves() -> None:
    """Lazily loaded names resolve too, and ``from meshlib import *`` works."""
    program = """
import meshlib
print(*(name for name in meshlib.__all__ if not hasattr(meshlib, name)))
from meshlib import *
print(explain.__name__, CallMesh.__name__, Mesh.__name__, HostSnapshot.__name__)
"""
    assert _ran(program) == ["explain", "CallMesh", "Mesh", "HostSnapshot"]


WITHOUT: dict[str, str] = {
    # Names missing on Windows and macOS; on 3.16 event loop policies are gone from every system.
    "win32": """
for module, name in ((os, "register_at_fork"), (os, "fork"), (os, "getuid"), (signal, "SIGKILL"), (signal, "SIGSTOP"),
                     (selectors, "EpollSelector"), (select, "epoll"),
                     (asyncio, "get_event_loop_policy"), (asyncio, "set_event_loop_policy")):
    delattr(module, name)
for module in ("resource", "fcntl", "pwd", "grp", "termios", "posix"):
    sys.modules[module] = None
""",
    "darwin": """
for module, name in ((selectors, "EpollSelector"), (select, "epoll"), (asyncio, "get_event_loop_policy")):
    delattr(module, name)
""",
}


@pytest.mark.parametrize("platform", WITHOUT)
@pytest.mark.parametrize("shell", ["sync", "aio"])
def test_meshlib_works_without_what_other_systems_lack(platform: str, shell: str) -> None:
    """Without the names that only Linux has, every public module imports, and a call is answered."""
    program = f"""
import asyncio, concurrent.futures, logging, multiprocessing, os, select, selectors, signal, socket, subprocess, sys
import dns.asyncbackend, dns.asyncquery, dns.asyncresolver, grpc, grpc.aio, tempfile, uuid
import opentelemetry.metrics, opentelemetry.trace
loop = asyncio.SelectorEventLoop
selectors.DefaultSelector = selectors.PollSelector
sys.platform = "{platform}"
{WITHOUT[platform]}
import meshlib
from meshlib import aio, balancing, discovery, telemetry, testing
from meshlib.testing import Server, echo

async def main(address):
    async with aio.channel(address) as channel:
        return await channel.unary_unary(echo.UNARY)(b"aio", timeout=10)

with Server() as server:
    if "{shell}" == "sync":
        with meshlib.channel(f"localhost:{{server.port}}") as channel:
            print(channel.unary_unary(echo.UNARY)(b"sync", timeout=10).decode())
            print(channel.unary_unary(echo.UNARY).future(b"sync", timeout=10).result().decode())
    else:
        event_loop = loop()
        print(event_loop.run_until_complete(main(f"localhost:{{server.port}}")).decode())
        print(event_loop.run_until_complete(main(f"static:///{{server.address}}")).decode())
        event_loop.close()
"""
    assert _ran(program) == [shell, shell]
