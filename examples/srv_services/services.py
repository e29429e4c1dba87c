"""Three services behind SRV records: A calls B calls C. Instances stop, and one is added; no call fails.

Each instance is a real grpc server that answers with the path of its call, as in ``a-1 > b-2 > c-1``.
"""

from collections import Counter
from contextlib import ExitStack

import grpc

import meshlib
from meshlib.testing import DnsServer, Server

METHOD = "/demo.Chain/Call"


class Instance:
    """One instance of a service, with a channel to the next service if there is one."""

    def __init__(self, name: str, next_target: str | None) -> None:
        self.name = name
        self.channel = None if next_target is None else meshlib.channel(next_target)
        self.next = None if self.channel is None else self.channel.unary_unary(METHOD)
        self.server = Server(name=name, add=self.register)

    def register(self, server: grpc.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(self.call)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Chain", {"Call": handler}),))

    def call(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Pass the rest of the caller's deadline on to the next service."""
        if self.next is None:
            return self.name.encode()
        return self.name.encode() + b" > " + self.next(request, timeout=context.time_remaining())

    def close(self) -> None:
        self.server.close()
        if self.channel is not None:
            self.channel.close()


def target(dns: DnsServer, service: str) -> str:
    """In a cluster this would be ``"svc-b"``, resolved by the machine's name server."""
    return f"srv://{dns.address}/_grpc._tcp.{service}.mesh.test"


def publish(dns: DnsServer, service: str, instance: Instance) -> None:
    host = f"{instance.name}.mesh.test"
    dns.add(host, "A", "127.0.0.1")
    dns.add(f"_grpc._tcp.{service}.mesh.test", "SRV", f"0 1 {instance.server.port} {host}")


def main() -> None:
    with ExitStack() as stack:
        dns = stack.enter_context(DnsServer())

        def start(service: str, number: int, next_service: str | None) -> Instance:
            after = None if next_service is None else target(dns, next_service)
            instance = Instance(f"{service[-1]}-{number}", after)
            stack.callback(instance.close)
            publish(dns, service, instance)
            return instance

        for service, next_service in (("svc-c", None), ("svc-b", "svc-c"), ("svc-a", "svc-b")):
            instances = [start(service, number, next_service) for number in (1, 2)]
            if service == "svc-c":
                c_1, _ = instances

        channel = stack.enter_context(meshlib.channel(target(dns, "svc-a")))
        call = channel.unary_unary(METHOD)

        def ways(calls: int = 40) -> Counter[str]:
            return Counter(call(b"", timeout=5).decode() for _ in range(calls))

        def show(when: str) -> None:
            told = Counter()
            for way, times in ways().items():
                for name in way.split(" > "):
                    told[name] += times
            print(f"{when}: {', '.join(f'{name} {told[name]}' for name in sorted(told))}")

        print(call(b"", timeout=5).decode())
        show("all are up")
        c_1.server.stop()
        show("c-1 is gone")
        start("svc-c", 3, None)
        while not any("c-3" in way for way in ways(2)):
            pass
        show("c-3 was added")


if __name__ == "__main__":
    main()
