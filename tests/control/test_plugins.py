"""Third-party resolvers over real threads: run in a thread, never waited for, registered by scheme."""

import asyncio
import threading
import time
from collections.abc import Callable
from random import Random

import pytest

import meshlib._control.plugins
from meshlib._control.plugins import FixedResolver, PluginResolver
from meshlib._control.shared import Resolutions
from meshlib._control.sources import source
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.discovery.registry import ResolverRegistry
from meshlib._core.discovery.steps import ResolveError
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.errors import ConfigError
from meshlib._core.target import Target, parse_target
from meshlib.discovery import register_resolver

ANSWER = Resolution(endpoints=(Endpoint(address="127.0.0.1:1"),))


class Blocking:
    """A typical resolver: it blocks."""

    def __init__(self, ask: Callable[[Resolution | None], Resolution]) -> None:
        self._ask = ask

    def resolve(self, previous: Resolution | None) -> Resolution:
        """Return or raise as the test says."""
        return self._ask(previous)


async def test_a_blocking_resolver_runs_aside() -> None:
    """In a daemon thread with its name and the previous answer, while the loop goes on."""
    release, asked = threading.Event(), threading.Event()
    seen: list[object] = []

    def ask(previous: Resolution | None) -> Resolution:
        seen.extend((previous, threading.current_thread().name, threading.current_thread().daemon))
        asked.set()
        assert release.wait(20)
        return ANSWER

    question = asyncio.create_task(PluginResolver(Blocking(ask)).resolve(ANSWER))
    assert await asyncio.to_thread(asked.wait, 20)
    assert not question.done()
    release.set()
    assert await asyncio.wait_for(question, 20) == ANSWER
    assert seen == [ANSWER, f"meshlib resolver {__name__}.Blocking", True]


async def test_a_resolver_that_returns_an_awaitable() -> None:
    """A ``def`` around an ``async def``, as decorators make them, is awaited on the loop."""

    async def answer() -> Resolution:
        return ANSWER

    class Wrapped:
        def resolve(self, previous: Resolution | None) -> object:
            return answer()

    assert await PluginResolver(Wrapped()).resolve(None) == ANSWER  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [OSError("boom"), SystemExit(1), StopIteration(), KeyboardInterrupt(), asyncio.CancelledError()]
)
async def test_what_a_thread_raises(error: BaseException) -> None:
    """Any exception is a failure of the resolver, even one meant to end a program."""

    def ask(_: Resolution | None) -> Resolution:
        raise error

    with pytest.raises(ResolveError, match=rf"Blocking raised .*{type(error).__name__}"):
        await PluginResolver(Blocking(ask)).resolve(None)


async def test_closing_does_not_wait_for_a_stuck_resolver(rng: Random) -> None:
    """The thread is abandoned: its later result is ignored."""
    release, asked = threading.Event(), threading.Event()

    def ask(_: Resolution | None) -> Resolution:
        asked.set()
        assert release.wait(20)
        return ANSWER

    table = Resolutions(clock=time.monotonic, rng=rng, environ={})
    heard: list[object] = []
    shared = table.get(source(parse_target("svc-a:1"), DnsPolicy(), Blocking(ask)))
    leave = shared.subscribe(heard.append, heard.append)
    try:
        await asyncio.to_thread(asked.wait, 20)
        leave()
        await asyncio.wait_for(table.aclose(), 0.9)  # less than the wait for a coroutine that ignores cancellation
    finally:
        release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("meshlib resolver"):
            await asyncio.to_thread(thread.join, 20)
    await asyncio.sleep(0)
    assert heard == []


def test_a_loop_that_is_gone() -> None:
    """A resolver that returns after its loop was closed ends its thread silently."""
    release, asked = threading.Event(), threading.Event()

    def ask(_: Resolution | None) -> Resolution:
        asked.set()
        assert release.wait(20)
        return ANSWER

    async def main() -> None:
        question = asyncio.ensure_future(PluginResolver(Blocking(ask)).resolve(None))
        await asyncio.to_thread(asked.wait, 20)
        question.cancel()

    asyncio.run(main())
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("meshlib resolver"):
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> ResolverRegistry:
    """Schemes of this test only."""
    fresh = ResolverRegistry(lambda: ())
    for module in ("meshlib._control.plugins", "meshlib._control.sources", "meshlib.discovery"):
        monkeypatch.setattr(f"{module}.REGISTRY", fresh)
    return fresh


class Consul:
    """A resolver that is its own factory: the class itself."""

    def __init__(self, target: Target) -> None:
        if not target.host:
            raise ConfigError("target", target.text, "name a service, as in consul:///svc-a")

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """Return one endpoint."""
        return ANSWER


async def test_a_registered_scheme(registry: ResolverRegistry, rng: Random) -> None:
    """The factory is called at construction; the environment overrides its host too; channels share it."""
    register_resolver("consul", Consul)
    target = parse_target("consul:///svc-a", schemes=registry)
    environ = {}
    table = Resolutions(clock=time.monotonic, rng=rng, environ=environ)
    made = source(target, DnsPolicy())
    assert made.name.endswith(".Consul")
    shared = table.get(made)
    assert table.get(source(target, DnsPolicy())) is shared
    for expected in ("127.0.0.1:1", "127.0.0.1:2"):
        heard: asyncio.Queue[Resolution] = asyncio.Queue()
        leave = shared.subscribe(heard.put_nowait, pytest.fail)
        found = await asyncio.wait_for(heard.get(), 20)
        while found.endpoints[0].address != expected:
            found = await asyncio.wait_for(heard.get(), 20)
        leave()
        environ["MESHLIB_SVC_A_ENDPOINTS"] = "127.0.0.1:2"
    await table.aclose()


def test_a_factory_that_refuses(registry: ResolverRegistry) -> None:
    """Constructing the channel raises its error."""
    register_resolver("consul", Consul)
    with pytest.raises(ConfigError, match="name a service, as in consul:///svc-a"):
        source(parse_target("consul:///", schemes=registry), DnsPolicy())


def test_what_is_no_resolver() -> None:
    """Rejected at construction; the class instead of an object is the usual mistake."""
    with pytest.raises(ConfigError, match=r"resolver=.*must be an object with a method resolve\(previous\)"):
        source(parse_target("svc-a"), DnsPolicy(), Consul)  # type: ignore[arg-type]


def test_the_installed_entry_points_can_be_read() -> None:
    """The registry of the process reads its entry points, whichever are installed."""
    assert isinstance(list(meshlib._control.plugins.REGISTRY), list)
    assert FixedResolver(ANSWER).steps == ()
