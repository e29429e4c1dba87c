"""Checks of pyspark, over grpc or over meshlib: one JSON line per check, which ``pyspark_client`` compares.

usage: python -m tests.clients.pyspark_checks grpc|meshlib <address of a Spark Connect server> <scratch folder>
"""

import concurrent.futures
import hashlib
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pandas as pd
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf, udf
from tests.e2e.relay import Relay

import meshlib

DEADLINE = 400
"""Seconds per check, the longest of which takes twenty on a quiet machine."""
MEGABYTE = 1_000_000
PARTITIONS = 8
made: list[meshlib.Channel] = []
"""The channels that pyspark has created."""


def insecure_channel(*arguments: Any, **options: Any) -> meshlib.Channel:
    """Replaces grpc's function."""
    made.append(meshlib.insecure_channel(*arguments, **options))
    return made[-1]


@contextmanager
def session(address: str) -> Iterator[SparkSession]:
    """A separate session with a separate channel."""
    spark = SparkSession.builder.remote(f"sc://{address}").create()
    try:
        yield spark
    finally:
        spark.stop()


def told(call: Callable[[], Any]) -> list[str]:
    """The error of a call: its class and text, without the parts that vary between runs."""
    try:
        answer = call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is compared
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>", str(error))
        text = re.sub(r"#\d+L?", "#<n>", text)
        known = [error.getCondition(), error.getSqlState()] if isinstance(error, PySparkException) else []
        code = getattr(error, "getGrpcStatusCode", lambda: None)()
        return [f"{type(error).__module__}.{type(error).__qualname__}", text, *map(str, known), str(code)]
    raise AssertionError(f"no error, but {answer!r}")


class Checks:
    """The checks, by name; each returns the same value at each run."""

    def __init__(self, spark: SparkSession, address: str, folder: Path) -> None:
        self.spark = spark
        self.address = address
        self.folder = folder

    def slow(self, spark: SparkSession, name: str, rows: int) -> Any:
        """A query of some seconds that leaves a file each time one of its parts begins."""
        marks = self.folder / name
        marks.mkdir()

        def work(number: int) -> int:
            import os
            import tempfile
            import time

            if number % rows == 0:  # the first of its partition
                os.close(tempfile.mkstemp(dir=str(marks), prefix=f"{number}-")[0])
            time.sleep(0.1)
            return number * number

        return spark.range(0, PARTITIONS * rows, 1, PARTITIONS).select(udf(work, "long")("id").alias("square"))

    def begun(self, name: str) -> int:
        """The number of begun parts of a slow query."""
        return len(list((self.folder / name).iterdir()))

    # --- the checks ---

    def query(self) -> Any:
        """Queries: rows, an aggregate and a temporary view."""
        self.spark.range(1000).createOrReplaceTempView("numbers")
        rows = self.spark.sql("select id % 7 as week, sum(id) as total from numbers group by week order by week")
        return [row.asDict() for row in rows.collect()], self.spark.table("numbers").count()

    def udf(self) -> Any:
        """UDFs, a row at a time and with Arrow."""
        plain = udf(lambda number: f"<{number}>", "string")

        @pandas_udf("long")
        def vector(numbers: pd.Series) -> pd.Series:
            return numbers * 2

        rows = self.spark.range(10).select(plain("id").alias("text"), vector("id").alias("twice"))
        return [list(row) for row in rows.collect()]

    def large_result(self) -> Any:
        """A hundred megabytes from the server."""
        with Relay(self.address) as relay, session(relay.address) as spark:
            answer = self.hundred_megabytes(spark)
            assert relay.down > 100 * MEGABYTE, relay.down
        return answer

    def hundred_megabytes(self, spark: SparkSession) -> Any:
        """The digest of a hundred megabytes."""
        rows = spark.range(0, 100_000, 1, 4).selectExpr("id", "repeat(md5(string(id)), 32) as text")
        texts = rows.toArrow().column("text").to_pylist()
        return len(texts), hashlib.sha256("".join(texts).encode()).hexdigest()

    def large_upload(self) -> Any:
        """A hundred megabytes to the server."""
        texts = [hashlib.sha256(b"%d" % n).hexdigest() * 16 for n in range(100_000)]
        with Relay(self.address) as relay, session(relay.address) as spark:
            rows = spark.createDataFrame(pd.DataFrame({"text": texts}))
            answer = [list(row) for row in rows.selectExpr("count(*)", "sum(crc32(text))", "max(text)").collect()]
            assert relay.up > 100 * MEGABYTE, relay.up
        return answer

    def interrupt(self) -> Any:
        """A running query is interrupted, by its tag and with all others; the session continues."""
        answers = []
        for name in ("interrupt-tag", "interrupt-all"):

            def run(name: str = name) -> list[str]:
                self.spark.addTag(name)
                try:
                    return told(self.slow(self.spark, name, 1000).collect)
                finally:
                    self.spark.removeTag(name)

            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                running = executor.submit(run)
                while not (self.folder / name).exists() or not self.begun(name):
                    assert not running.done(), running.result()
                    time.sleep(0.1)
                ended = self.spark.interruptTag(name) if name == "interrupt-tag" else self.spark.interruptAll()
                answers.append([len(ended), running.result()])
        return answers, self.spark.range(3).count()

    def errors(self) -> Any:
        """Errors of the parser, the analyser, a task and a UDF: pyspark's own classes, and the server's text."""

        def broken(number: int) -> int:
            raise ValueError(f"no {number}")

        queries = ("selec 1", "select nothing from range(3)", "select * from nowhere", "select 1 / id from range(3)")
        answers = [told(lambda query=query: self.spark.sql(query).collect()) for query in queries]
        return [*answers, told(self.spark.range(1).select(udf(broken, "long")("id")).collect)]

    def cut(self) -> Any:
        """The connection is reset three times under a long query, which still completes and ran once."""
        return self.through("cut", lambda relay: [(relay.reset(), time.sleep(1)) for _ in range(3)])

    def outage(self) -> Any:
        """The server is unreachable for three seconds, in the middle of a long query."""
        return self.through("outage", lambda relay: (relay.cut(), time.sleep(3), relay.mend()))

    def through(self, name: str, fault: Callable[[Relay], Any]) -> Any:
        """Run a slow query with a fault in the middle, and return whether each part of it was begun once."""
        with Relay(self.address) as relay, session(relay.address) as spark:
            spark.range(1).count()
            query = self.slow(spark, name, 20)
            ended = threading.Event()
            too_late: list[bool] = []

            def break_it() -> None:
                while self.begun(name) < 3 and not ended.is_set():  # the first two are done: there are rows
                    time.sleep(0.05)
                fault(relay)
                too_late.append(ended.is_set())

            breaker = threading.Thread(target=break_it)
            breaker.start()
            try:
                rows = [row.square for row in query.collect()]
            finally:
                ended.set()
                breaker.join()
            assert too_late == [False]
            assert rows == [n * n for n in range(PARTITIONS * 20)]
            return self.begun(name) == PARTITIONS

    def cut_result(self) -> Any:
        """The connection is reset within a message, thirty of a hundred megabytes into a result."""
        with Relay(self.address) as relay, session(relay.address) as spark:
            spark.range(1).count()
            relay.cut_after(30 * MEGABYTE)
            answer = self.hundred_megabytes(spark)
            assert relay.down > 100 * MEGABYTE, relay.down
        return answer

    def gone(self) -> Any:
        """The server is gone for good and pyspark's retries are off: the class of the error and its code."""
        with Relay(self.address) as relay:
            spark = SparkSession.builder.remote(f"sc://{relay.address}").create()
            spark.range(1).count()
            spark.client.set_retry_policies([])
            relay.cut()
            kind, *_, code = told(spark.range(1).count)  # meshlib's text lists its attempts
            spark.client.close()
            return kind, code


NAMES = ("query", "udf", "errors", "large_result", "large_upload", "interrupt", "cut", "outage", "cut_result", "gone")


def late(*_: object) -> None:
    """A check has timed out."""
    raise TimeoutError(f"not done in {DEADLINE} seconds")


def main(channels: str, address: str, folder: str) -> None:
    """Run all checks in turn, each with a time limit."""
    if channels == "meshlib":
        grpc.insecure_channel = insecure_channel
    signal.signal(signal.SIGALRM, late)
    signal.alarm(DEADLINE)
    with session(address) as spark:
        checks = Checks(spark, address, Path(folder))
        for name in NAMES:
            signal.alarm(DEADLINE)
            start = time.monotonic()
            check = getattr(checks, name)
            line = {"name": name, "claim": check.__doc__, "answer": check(), "seconds": time.monotonic() - start}
            print(json.dumps(line), flush=True)  # noqa: T201 - for the other process
    assert len(made) == (7 if channels == "meshlib" else 0)  # one for each session


if __name__ == "__main__":
    main(*sys.argv[1:])
