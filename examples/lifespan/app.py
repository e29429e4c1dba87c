"""One channel for the life of a web application, as with FastAPI and Starlette."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace

import meshlib.aio
from meshlib.testing import echo, servers


class App:
    """The part of ``fastapi.FastAPI`` that a lifespan needs."""

    def __init__(self, lifespan: "Callable[[App], AbstractAsyncContextManager[None]]") -> None:
        self.lifespan = lifespan
        self.state = SimpleNamespace()


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    async with meshlib.aio.channel("svc-a", timeout=2) as channel:
        app.state.svc_a = channel.unary_unary(echo.UNARY)
        app.state.mesh = channel.mesh
        yield


app = App(lifespan=lifespan)


async def get_greeting(name: str) -> str:
    """A route: all requests share the channel."""
    answer: bytes = await app.state.svc_a(f"hello {name}".encode())
    return answer.decode()


async def get_status() -> dict[str, int]:
    """A status page."""
    hosts = app.state.mesh.snapshot().hosts
    return {"instances": len(hosts), "unreachable": sum(host.state == "TRANSIENT_FAILURE" for host in hosts)}


async def serve() -> None:
    """Act as uvicorn: enter the lifespan, serve concurrent requests, leave it."""
    async with app.lifespan(app):
        print(await asyncio.gather(*(get_greeting(name) for name in ("ada", "grace"))))
        print(await get_status())


def main() -> None:
    with servers(2) as instances:
        os.environ["MESHLIB_SVC_A_ENDPOINTS"] = ",".join(server.address for server in instances)
        asyncio.run(serve())


if __name__ == "__main__":
    main()
