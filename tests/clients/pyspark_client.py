"""pyspark unchanged over meshlib, against a real Spark Connect server: every check goes over grpc first.

usage: python -m tests.clients.pyspark_client, with Java 17 or newer
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata, util
from pathlib import Path
from typing import Any

START = 240.0
"""Seconds for the server to start; ten on a quiet machine."""
DEADLINE = 1500.0
"""Seconds for all checks over one kind of channel; one or two minutes on a quiet machine."""
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.connect.grpc.binding.address": "127.0.0.1",
    "spark.connect.grpc.binding.port": "0",
    # The server's buffer for a reconnecting client. With 10 MB, the default, a large result that is cut is sometimes
    # lost, over grpc as well: the buffers in between held more than that.
    "spark.connect.execute.reattachable.observerRetryBufferSize": "256m",
}
STARTED = re.compile(r"Spark Connect server started at: \S*:(\d+)")


def environment() -> dict[str, str]:
    """Hide any Spark of this machine; Python workers run the same Python."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK", "PYSPARK"))}
    return ours | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1", "PYTHONWARNINGS": "ignore"}


def end(process: subprocess.Popen[Any]) -> None:
    """Kill the process and its children; they have a process group of their own."""
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a Spark Connect server, which comes with the package pyspark; its files are in ``folder``."""
    spec = util.find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    home = Path(spec.origin).parent
    settings = SETTINGS | {"spark.local.dir": str(folder), "spark.sql.warehouse.dir": str(folder / "warehouse")}
    command = [str(home / "bin" / "spark-submit"), "--master", "local[2]", "--driver-memory", "2g"]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    for name, value in settings.items():
        command += ["--conf", f"{name}={value}"]
    log = folder / "server.log"
    with ExitStack() as cleanup:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=cleanup.enter_context(log.open("wb")),
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment() | {"SPARK_HOME": str(home), "SPARK_CONNECT_MODE": "0"},
            start_new_session=True,
        )
        cleanup.callback(end, process)
        patience = time.monotonic() + START
        while (found := STARTED.search(text := log.read_text(errors="replace"))) is None:
            assert process.poll() is None, f"the server has ended:\n{text}"
            assert time.monotonic() < patience, f"the server has not started:\n{text}"
            time.sleep(0.2)
        yield f"127.0.0.1:{found[1]}"


def checked(channels: str, address: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The result of each check, from a separate process."""
    folder.mkdir()
    complaints = folder / "stderr"
    with ExitStack() as cleanup:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.clients.pyspark_checks", channels, address, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=cleanup.enter_context(complaints.open("wb")),
            env=environment(),
            text=True,
            start_new_session=True,
        )
        cleanup.callback(end, process)
        try:
            lines, _ = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            end(process)
            lines, _ = process.communicate()
    if process.returncode:
        raise AssertionError(f"over {channels}: exit {process.returncode}\n{lines}\n{complaints.read_text()}")
    return {check["name"]: check for check in map(json.loads, lines.splitlines())}


def main() -> None:
    """Run the same checks over both, and print a line for each."""
    assert shutil.which("java") or os.environ.get("JAVA_HOME"), "Java is not installed; Spark 4 needs 17 or newer"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # by an exception, so that cleanup runs
    different = []
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as address:
        plain = checked("grpc", address, Path(name, "grpc"))
        ours = checked("meshlib", address, Path(name, "meshlib"))
        assert plain.keys() == ours.keys()
        for check, over_grpc in plain.items():
            same = ours[check]["answer"] == over_grpc["answer"]
            if not same:
                different.append(f"{check}\nover grpc: {over_grpc['answer']}\nover meshlib: {ours[check]['answer']}")
            print(  # noqa: T201 - what the session shows
                f"pyspark {metadata.version('pyspark')}: {ours[check]['claim']}"
                f" {'As over grpc' if same else 'NOT as over grpc'}"
                f" ({ours[check]['seconds']:.1f} s; grpc {over_grpc['seconds']:.1f} s)"
            )
    if different:
        sys.exit("\n\n".join(different))


if __name__ == "__main__":
    main()
