"""A custom resolver: instances from a registry with a long poll. A change arrives at once."""

import json
import time
from contextlib import closing
from urllib.request import urlopen

from registry import Registry

import meshlib
from meshlib.discovery import Endpoint, Resolution, Target, register_resolver
from meshlib.testing import echo, servers


class RegistryResolver:
    """``registry://127.0.0.1:8500/svc-a``: the registry's address, and the name of the service there."""

    def __init__(self, target: Target) -> None:
        self.url = f"http://{target.nameserver}/{target.host}"
        self.version = 0

    def resolve(self, previous: Resolution | None) -> Resolution:
        """A plain ``def``: it runs in a separate thread and may block. With ``previous`` it waits for a change."""
        after = 0 if previous is None else self.version
        with urlopen(f"{self.url}?after={after}", timeout=20) as response:
            answer = json.load(response)
        self.version = answer["version"]
        endpoints = tuple(Endpoint(address=address) for address in answer["addresses"])
        return Resolution(endpoints=endpoints, ttl=0.0)  # call again at once: the registry holds the request


register_resolver("registry", RegistryResolver)


def main() -> None:
    with closing(Registry()) as registry, servers(3) as instances:
        addresses = [server.address for server in instances]
        registry.set("svc-a", addresses[:1])
        with meshlib.channel(f"registry://{registry.address}/svc-a") as channel:
            call = channel.unary_unary(echo.UNARY)
            call(b"hello", timeout=5)
            print(f"one instance: {[server.calls.total() for server in instances]}")

            registry.set("svc-a", addresses)
            deadline = time.monotonic() + 10
            while not all(server.calls for server in instances) and time.monotonic() < deadline:
                call(b"hello", timeout=5)
            print(f"three instances, all called: {all(server.calls for server in instances)}")

            registry.set("svc-a", addresses[1:])
            while len(channel.mesh.snapshot().hosts) > 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            before = instances[0].calls.total()
            for _ in range(10):
                call(b"hello", timeout=5)
            print(f"one was taken out, and is called no more: {instances[0].calls.total() == before}")


if __name__ == "__main__":
    main()
