"""Resolvers and balancers of installed packages."""

import subprocess
import sys
from pathlib import Path

from meshlib.testing import Server

PLUGIN = """
from random import Random
from meshlib.balancing import Picker
from meshlib.discovery import Endpoint, Resolution

class Registry:
    def __init__(self, target):
        self.address = target.host
    def resolve(self, previous):
        return Resolution(endpoints=(Endpoint(address=self.address),))

class First:
    def picker(self, hosts, *, rng):
        return FirstPicker(hosts)

class FirstPicker(Picker):
    def __init__(self, hosts):
        self.hosts = hosts
    def pick(self, call, *, now):
        return self.hosts[0]
"""
ENTRY_POINTS = """
[meshlib.resolvers]
e2e-installed = e2e_plugin:Registry
e2e-broken = e2e_plugin:Missing
[meshlib.balancers]
e2e-first = e2e_plugin:First
"""
PROGRAM = """
import sys
import meshlib
from meshlib.testing import echo
for target, options in (
    ("e2e-broken:///x", {}),
    ("e2e-unknown:///x", {}),
    ("e2e-installed:///x", {"balancer": "e2e-firts"}),
):
    try:
        meshlib.channel(target, **options)
    except meshlib.ConfigError as error:
        print(error)
with meshlib.channel("e2e-installed:///" + sys.argv[1], balancer="e2e-first") as channel:
    print(channel.unary_unary(echo.UNARY)(b"served", timeout=10).decode())
"""


def test_installed_packages_register_by_entry_points(tmp_path: Path) -> None:
    """A resolver and a balancer of an installed package work by name; errors for unavailable ones list the others."""
    (tmp_path / "e2e_plugin.py").write_text(PLUGIN)
    information = tmp_path / "e2e_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: e2e-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    with Server() as server:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, server.address],
            capture_output=True,
            text=True,
            timeout=30,
            env={"PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
            check=False,
        )
    assert done.returncode == 0, done.stderr
    broken, unknown, misspelt, served = done.stdout.splitlines()
    assert "entry point 'e2e_plugin:Missing' failed to load" in broken
    assert "unknown name; known:" in unknown
    assert "e2e-installed" in unknown
    assert "did you mean 'e2e-first'?" in misspelt
    assert served == "served"
