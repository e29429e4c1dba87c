"""pymilvus unchanged over meshlib, against milvus-lite, with its own interceptors and retries.

usage: python -m tests.clients.milvus_client
"""

import tempfile
from pathlib import Path
from typing import Any

import grpc
from pymilvus import MilvusClient

import meshlib

made: list[meshlib.Channel] = []
"""The channels that pymilvus has created."""


def insecure_channel(*arguments: Any, **options: Any) -> meshlib.Channel:
    """Replaces grpc's function."""
    made.append(meshlib.insecure_channel(*arguments, **options))
    return made[-1]


def main() -> None:
    """Create a collection, insert, search and drop it."""
    grpc.insecure_channel = insecure_channel
    with tempfile.TemporaryDirectory() as folder:
        client = MilvusClient(str(Path(folder) / "milvus.db"))
        client.create_collection("things", dimension=4)
        client.insert(
            "things", [{"id": n, "vector": [float(n), 1.0, 0.0, 0.0], "name": f"thing {n}"} for n in range(100)]
        )
        (found,) = client.search("things", data=[[42.0, 1.0, 0.0, 0.0]], limit=1, output_fields=["name"])
        assert client.query("things", filter="id == 7", output_fields=["name"])[0]["name"] == "thing 7"
        assert len(found) == 1
        assert client.has_collection("things")
        client.drop_collection("things")
        client.close()
    assert made
    print("pymilvus: created, inserted, searched, dropped")  # noqa: T201 - what the session shows


if __name__ == "__main__":
    main()
