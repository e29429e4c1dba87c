"""Conditions of a benchmark run, recorded with every figure."""

import os
import platform
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path

import grpc
from sidecar import envoy_version

__all__ = ["conditions"]


def conditions() -> dict[str, str]:
    """Return date, machine, versions and command."""
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{platform.system()} {platform.release()}, {os.cpu_count()} x {_processor()}",
        "load": f"{load} at the start",
        "versions": (
            f"CPython {platform.python_version()}, meshlib {version('meshlib-grpc')}, grpcio {grpc.__version__}, "
            f"OpenTelemetry {version('opentelemetry-sdk')}, {envoy_version()}"
        ),
        "command": shlex.join(["python", *_command()]),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.machine()


def _command() -> list[str]:
    program, *arguments = sys.argv
    return [f"benchmarks/{Path(program).name}", *arguments]
