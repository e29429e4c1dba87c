"""Custom balancers: their errors never fail a call, and are reported."""

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from tests.core.channels import Channel
from tests.core.scripted import brief

from meshlib._core.balancing.contracts import Picker, Report
from meshlib._core.balancing.picker_snapshot import REST
from meshlib._core.balancing.priorities import Priorities
from meshlib._core.connectivity import CONNECTING, READY, TRANSIENT_FAILURE
from meshlib._core.endpoint import Endpoint
from meshlib._core.events import PluginFailed
from meshlib._core.host import HostEntry
from meshlib._core.status import OK

NAMES = ("a", "b", "c")


class Bench:
    """A balancer whose pickers behave as a test sets them.

    Args:
        pick: called with the hosts of its picker.
        more: further attributes of the pickers' class.
    """

    def __init__(self, pick: Callable[[Sequence[Any]], object], **more: Any) -> None:
        self.made: list[Any] = []
        self.kind = type("BenchPicker", (), {"pick": lambda picker, *_, **__: pick(picker.hosts), **more})

    def picker(self, hosts: tuple[Any, ...], *, rng: Random) -> Any:
        picker = self.kind()
        picker.hosts = hosts
        self.made.append(picker)
        return picker


def first(hosts: Sequence[Any]) -> object:
    """The first host."""
    return hosts[0]


def told(channel: Channel, *, now: float = 50.0) -> list[tuple[str, str, str]]:
    """The plug-in failures reported so far: plug-in, method, error."""
    channel.step(now=now)
    return [(event.name, event.doing, str(event.error)) for event in channel.ear.heard(PluginFailed)]


def raises(*_: object, **__: object) -> Any:
    """A plug-in that raises."""
    raise LookupError("no idea")


@pytest.mark.parametrize(
    ("picked", "error"),
    [
        ("raise", "no idea"),
        ("a", "returned 'a', not one of its hosts"),
        ([], "returned [], not one of its hosts"),
        (HostEntry(Endpoint(address="a")), "returned <Host a CONNECTING in_flight=0>, not one of its hosts"),
    ],
)
def test_a_picker_that_cannot_pick(picked: object, error: str) -> None:
    """A picker raises or returns a foreign host: calls are spread in turn, reported once per membership."""
    channel = Channel.of(*NAMES, balancer=Bench(raises if picked == "raise" else lambda _: picked))
    picks = [channel.pick() for _ in range(30)]
    assert {name: picks.count(name) for name in NAMES} == {"a": 10, "b": 10, "c": 10}
    assert told(channel) == [("Bench", "pick", error)]
    assert channel.ear.heard(PluginFailed)[0].instead == "round robin over the ready hosts"
    channel.resolve("a", "b", now=60.0)
    channel.pick()
    assert len(told(channel, now=61.0)) == 2


@pytest.mark.parametrize("made", ["raise", None, object()])
def test_a_balancer_that_makes_no_picker(made: object) -> None:
    """Round robin replaces it."""

    class Broken:
        def picker(self, hosts: object, *, rng: Random) -> Any:
            return raises() if made == "raise" else made

    channel = Channel.of(*NAMES, balancer=Broken())
    assert {channel.pick() for _ in range(3)} == set(NAMES)
    error = "no idea" if made == "raise" else f"returned {made!r}, an object without pick()"
    assert set(told(channel)) == {("Broken", "picker", error)}


def test_a_picker_that_sticks_to_one_host() -> None:
    """A retry goes to an untried host, and no call goes to a disconnected one."""
    channel = Channel.of(*NAMES, balancer=Bench(first))
    call = channel.call()
    assert brief(call.begin(now=0.0)) == ["start 1 a first"]
    assert channel.pick(call) in {"b", "c"}
    channel.links["a"].is_now = TRANSIENT_FAILURE
    assert channel.pick() in {"b", "c"}
    assert told(channel) == []


def test_a_picker_that_says_wait() -> None:
    """None makes the call wait until the hosts, or their calls in flight, change."""
    bench = Bench(lambda hosts: next((host for host in hosts if host.in_flight == 0), None))
    channel = Channel.of("a", balancer=bench)
    flying, waiting = channel.call(), channel.call()
    flying.begin(now=0.0)
    assert waiting.begin(now=0.0) == ()
    channel.step(now=0.1)
    assert channel.woken == []
    flying.on_outcome(1, OK, now=1.0)
    channel.step(now=1.0)
    assert channel.woken == [waiting]
    assert brief(waiting.on_endpoints(now=1.0)) == ["start 1 a first"]
    late = channel.call()
    assert late.begin(now=2.0) == ()
    channel.resolve("a", "b", now=3.0)
    channel.put("b", READY, now=3.0)
    assert brief(late.on_endpoints(now=3.0)) == ["start 1 b first"]


@pytest.mark.parametrize("balancer", [None, Priorities], ids=["strict", "overprovisioned"])
def test_a_picker_that_says_wait_has_the_next_priority_wait_too(balancer: Any) -> None:
    """Its hosts have not failed: the next priority does not take over their temporary excess."""
    asked = []

    def wait(hosts: Sequence[Any]) -> object:
        asked.append(hosts[0].endpoint.address)
        return hosts[0] if hosts[0].endpoint.priority else None

    bench = Bench(wait)
    endpoints = [Endpoint(address="a"), Endpoint(address="b", priority=1)]
    channel = Channel.of(*endpoints, balancer=balancer(balancer=bench) if balancer else bench)
    call = channel.call()
    assert call.begin(now=1.0) == ()
    assert asked == ["a"]
    channel.put("a", TRANSIENT_FAILURE, now=2.0)
    assert channel.woken == [call]
    assert brief(call.on_endpoints(now=2.0)) == ["start 1 b first"]


def test_a_picker_that_says_wait_when_all_fail() -> None:
    """No wait could succeed: a fail-fast call gets the reason."""
    channel = Channel.of("a", balancer=Bench(lambda _: None))
    call = channel.call()
    assert call.begin(now=0.0) == ()
    channel.put("a", TRANSIENT_FAILURE, now=1.0)
    assert channel.woken == [call]
    assert call.on_endpoints(now=1.0) == ()
    channel.step(now=1.0)
    channel.put("a", TRANSIENT_FAILURE, now=1.1)
    assert channel.woken == [call, call]
    assert brief(call.on_endpoints(now=1.1)) == ["start 1 a first"]


def test_steps_left_to_a_pick_are_given_to_the_control_plane() -> None:
    """The control plane takes their commands at once, not at its next poll."""
    left: list[str] = []

    def pick(hosts: Sequence[Any]) -> object:
        if left:
            channel.resolve(*left, now=1.0)  # during the pick, like a thread that does not wait
            left.clear()
        return hosts[0]

    channel = Channel.of("a", balancer=Bench(pick))
    left += ["a", "b"]
    before = channel.asked_for_attention
    call = channel.call()
    call.begin(now=1.0)
    assert (channel.opened, channel.asked_for_attention > before) == (["a"], True)
    channel.step(now=1.0)
    assert channel.opened == ["a", "b"]


def test_adopt_is_asked_once_with_the_picker_before() -> None:
    """``adopt`` gets the previous picker across a time without hosts too, but only one of its own kind."""
    adopted = []
    bench = Bench(first, adopt=lambda picker, previous, *, now: adopted.append((picker, previous, now)))
    channel = Channel.of("a", balancer=bench)
    assert adopted == []
    channel.put("a", CONNECTING, now=1.0)
    channel.put("a", READY, now=2.0)
    assert adopted == [(bench.made[1], bench.made[0], 2.0)]


def test_adopt_that_raises() -> None:
    """The new picker starts without state."""
    channel = Channel.of("a", balancer=Bench(first, adopt=raises))
    channel.resolve("a", "b", now=1.0)
    assert channel.pick() == "a"
    assert told(channel) == [("Bench", "adopt", "no idea")]


def test_done_hears_every_attempt() -> None:
    """``done`` is called for every attempt, including those of other pickers and any outcome."""
    heard: list[tuple[HostEntry, Report]] = []
    bench = Bench(first, done=lambda _, host, report, **__: heard.append((host, report)))
    channel = Channel.of("a", balancer=bench)
    channel.call().begin(now=0.0)
    host = channel.host("a")
    channel.cluster.report(host, OK, 0.25, now=1.0)
    assert heard == [(host, Report(code="OK", seconds=0.25))]


def test_done_that_raises() -> None:
    """The in-flight count of the attempt is lowered all the same."""
    channel = Channel.of("a", balancer=Bench(first, done=raises))
    assert [channel.pick() for _ in range(3)] == ["a", "a", "a"]
    assert channel.host("a").in_flight == 0
    assert told(channel) == [("Bench", "done", "no idea")]


def test_the_empty_methods_of_the_contract_cost_nothing() -> None:
    """Inherited empty methods of a picker are not called."""

    class Plain(Picker):
        def __init__(self, hosts: tuple[Any, ...]) -> None:
            self.hosts = hosts

        def pick(self, call: object, *, now: float) -> Any:
            return self.hosts[0]

    class Balancer:
        def picker(self, hosts: tuple[Any, ...], *, rng: Random) -> Picker:
            return Plain(hosts)

    channel = Channel.of("a", balancer=Balancer())
    assert channel.pick() == "a"
    assert told(channel) == []


def test_a_picker_may_call_the_methods_of_the_contract() -> None:
    """The inherited methods do nothing, for pickers that extend them."""
    heard: list[str] = []

    class Extends(Picker):
        def __init__(self, hosts: tuple[Any, ...]) -> None:
            self.hosts = hosts

        def pick(self, call: object, *, now: float) -> Any:
            return self.hosts[0]

        def adopt(self, previous: Picker, *, now: float) -> None:
            super().adopt(previous, now=now)
            heard.append("adopt")

        def done(self, host: Any, report: Report, *, now: float) -> None:
            super().done(host, report, now=now)
            heard.append("done")

        def probes(self, *, now: float) -> Sequence[Any]:
            return super().probes(now=now)

        def probed(self, host: Any, report: Report, *, now: float) -> None:
            super().probed(host, report, now=now)

    class Balancer:
        def picker(self, hosts: tuple[Any, ...], *, rng: Random) -> Picker:
            return Extends(hosts)

    channel = Channel.of("a", balancer=Balancer())
    channel.resolve("a", "b", now=1.0)
    channel.put("b", READY, now=1.0)
    assert channel.pick() == "a"
    assert (heard[0], heard[-1]) == ("adopt", "done")
    assert told(channel) == []
    picker = Extends((channel.host("a"),))
    assert list(picker.probes(now=1.0)) == []
    picker.probed(channel.host("a"), Report(code="OK", seconds=0.1), now=1.0)


# --- stale_at ------------------------------------------------------------------------


def test_a_picker_is_rebuilt_when_it_wants_to_be() -> None:
    """A picker is rebuilt once at its ``stale_at``, with nothing else changed; without one never."""
    bench = Bench(first, stale_at=20.0)
    channel = Channel.of("a", balancer=bench)
    channel.step(now=19.95)
    assert channel.cluster.next_timer() == 20.0
    assert len(bench.made) == 1
    bench.kind.stale_at = math.inf
    channel.step(now=20.0)
    channel.step(now=30.0)
    assert len(bench.made) == 2


def test_a_picker_that_is_always_stale() -> None:
    """Rebuilds are limited to ten a second."""
    bench = Bench(first, stale_at=-math.inf)
    channel = Channel.of("a", balancer=bench)
    made = len(bench.made)
    now = 10.0
    for _ in range(50):
        channel.step(now=now)
        now = max(now, channel.cluster.next_timer() or math.nan)
    assert now <= 10.0 + 50 * REST
    assert len(bench.made) - made <= (now - 10.0) / REST + 1


def test_a_rebuild_that_takes_its_time_is_asked_for_once() -> None:
    """No second rebuild is due during one; changes in the meantime are built after it."""
    bench = Bench(first, stale_at=20.0)
    channel = Channel(bench, defer=True)
    channel.resolve("a", now=0.0)
    channel.perform(now=0.0)
    channel.put("a", READY, now=0.0)
    channel.perform(now=0.0)
    channel.step(now=20.0)
    due = channel.cluster.next_timer()
    assert due is not None
    assert due > 20.0
    made = len(bench.made)
    for _ in range(3):
        channel.step(now=20.01)
    channel.perform(now=20.02)
    assert len(bench.made) == made + 1


@pytest.mark.parametrize("stale_at", [None, "soon", math.nan])
def test_a_time_that_is_none(stale_at: object) -> None:
    """It means never."""
    bench = Bench(first, stale_at=stale_at)
    channel = Channel.of("a", balancer=bench)
    assert channel.pick() == "a"
    assert told(channel) == [("Bench", "stale_at", f"is {stale_at!r}, not a point in time")]
    assert len(bench.made) == 1


def test_the_end_of_an_attempt_reaches_the_picker_in_use() -> None:
    """A report that is queued behind a rebuild goes to the new picker, which has replaced the old one."""
    made: list[Any] = []
    reported: list[int] = []

    class Numbered(Picker):
        def __init__(self, hosts: tuple[Any, ...]) -> None:
            self._hosts = hosts
            made.append(self)
            self._number = len(made)

        def pick(self, call: Any, *, now: float) -> Any:
            return self._hosts[0]

        def done(self, host: Any, report: Any, *, now: float) -> None:
            reported.append(self._number)

    class Numbering:
        def picker(self, hosts: tuple[Any, ...], *, rng: Random) -> Any:
            return Numbered(hosts)

    channel = Channel.of("a", balancer=Numbering())
    cluster = channel.cluster
    host = cluster.pick(channel.call(), now=1.0)
    assert isinstance(host, HostEntry)
    before = len(made)
    cluster.hosts.version += 1

    def step() -> None:
        cluster.rebuild_aside(now=2.0)
        cluster.report(host, OK, 0.1, now=2.0)

    cluster._steps.serializer.run(step, None)
    assert reported == [before + 1]
