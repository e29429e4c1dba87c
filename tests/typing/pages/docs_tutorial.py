"""The blocks of docs/tutorial.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
from meshlib.testing import DnsServer, Server, echo

dns = DnsServer()
alpha, beta, gamma = Server(name="alpha"), Server(name="beta"), Server(name="gamma")


def publish(server: Server) -> None:
    dns.add("_grpc._tcp.svc-a.mesh.test", "SRV", f"0 1 {server.port} {server.name}.mesh.test")
    dns.add(f"{server.name}.mesh.test", "A", "127.0.0.1")


for server in (alpha, beta, gamma):
    publish(server)

# block 2
import meshlib

target = f"srv://{dns.address}/_grpc._tcp.svc-a.mesh.test"
channel = meshlib.channel(target)
call = channel.unary_unary(echo.UNARY)

print(call(b"hello"))

# block 3
from collections import Counter


def answers(calls: int) -> Counter[str]:
    names: Counter[str] = Counter()
    for _ in range(calls):
        _, outcome = call.with_call(b"hello", timeout=5)
        names[str(dict(outcome.initial_metadata())[echo.SERVER_NAME])] += 1
    return names


while len(answers(3)) < 3:  # the first calls go to the server that is connected first
    pass

print(answers(30))

# block 4
alpha.stop()
print(answers(30))

# block 5
for host in channel.mesh.snapshot().hosts:
    print(host.address, host.state, host.successes, host.failures)

# block 6
alpha.start()
while "alpha" not in answers(3):
    pass

print(answers(30))

# block 7
delta = Server(name="delta")
publish(delta)

while "delta" not in answers(4):
    pass

dns.remove("_grpc._tcp.svc-a.mesh.test", "SRV", f"0 1 {beta.port} beta.mesh.test")
while "beta" in answers(4):
    pass

print(answers(30))

# block 8
gamma.fault(code="UNAVAILABLE", details="restarting", times=1)
for _ in range(30):
    _, outcome = call.with_call(b"hello", timeout=5)
    mesh = meshlib.explain(outcome)
    if mesh is not None and len(mesh.attempts) > 1:
        for attempt in mesh.attempts:
            print(attempt.why, attempt.host, attempt.code)

# block 9
import grpc

for server in (alpha, gamma, delta):
    server.fault(code="UNAVAILABLE", details="restarting")

try:
    call(b"hello", timeout=5)
except grpc.RpcError as error:
    print(error)

for server in (alpha, gamma, delta):
    server.heal()

# block 10
import asyncio

import meshlib.aio


async def main() -> None:
    async with meshlib.aio.channel(target) as channel:
        call = channel.unary_unary(echo.UNARY)
        print(await asyncio.gather(*(call(b"hello", timeout=5) for _ in range(3))))


asyncio.run(main())

# block 11
channel.close()
dns.close()
for server in (alpha, beta, gamma, delta):
    server.close()
