"""An asyncio channel: concurrent calls, a stream, and the channel's view of its hosts."""

import asyncio

import grpc

import meshlib.aio
from meshlib.testing import echo, servers


async def use(target: str) -> None:
    async with meshlib.aio.channel(target, balancer="least_request", timeout=5) as channel:
        unary = channel.unary_unary(echo.UNARY)
        answers = await asyncio.gather(*(unary(b"%d" % n) for n in range(100)))
        print(f"{len(answers)} answers, in order: {answers == [b'%d' % n for n in range(100)]}")

        stream = channel.unary_stream(echo.SERVER_STREAM)
        print([message async for message in stream(b"tick", metadata=((echo.COUNT, "3"),))])

        hosts = channel.mesh.snapshot().hosts
        print(f"{len(hosts)} hosts, {sum(host.successes for host in hosts)} calls answered")

        try:
            await channel.unary_unary("/meshlib.testing.Echo/Unknown")(b"")
        except grpc.aio.AioRpcError as error:
            print(error.code().name, len(error.mesh.attempts), error.mesh.why)


def main() -> None:
    with servers(3) as instances:
        asyncio.run(use("static:///" + ",".join(server.address for server in instances)))


if __name__ == "__main__":
    main()
