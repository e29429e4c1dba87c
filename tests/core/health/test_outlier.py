"""Outlier detection against Envoy's own cases (outlier_detection_impl_test.cc), and the intended differences."""

from collections.abc import Sequence
from random import Random

import pytest
from tests.core.scripted import Draws, host

from meshlib._core.connectivity import READY
from meshlib._core.errors import ConfigError
from meshlib._core.health.outlier import GATEWAY, SERVER_ERRORS, Outlier, Outliers
from meshlib._core.health.policy import OutlierDetection
from meshlib._core.host import HostEntry
from meshlib._core.status import CODES, Outcome

BAD = Outcome("INTERNAL", "a bug")
GONE = Outcome("UNAVAILABLE", "gone")
BROKEN = Outcome("UNAVAILABLE", "Socket closed", answered=False)


class Bench:
    """Outlier detection alone, over hosts that answer as a test says.

    Args:
        count: of hosts.
        draws: returned by every random draw.
        policy: the fields that differ from Envoy's defaults, which are not ours.
    """

    def __init__(self, count: int, *, draws: float = 0.5, **policy: object) -> None:
        envoy = {
            "enforcing_consecutive_5xx": 100,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 100,
            "always_eject_one_host": False,
            "max_ejection_percent": 100,
        }
        self.rng = Draws(draws)
        self.outliers = Outliers(OutlierDetection(**{**envoy, **policy}), self.rng)  # type: ignore[arg-type]
        self.hosts = [host(f"h{number}") for number in range(count)]
        for one in self.hosts:
            one.state = READY
        self.outliers.begin(now=0.0)

    def fail(self, number: int, times: int = 1, outcome: Outcome = BAD, *, now: float = 0.0) -> list[Outlier]:
        found = []
        for _ in range(times):
            found += self.outliers.failed(self.hosts[number], outcome, self.hosts, now=now)
        return found

    def succeed(self, number: int, times: int = 1) -> None:
        for _ in range(times):
            self.hosts[number].successes += 1
            if self.hosts[number].struck:
                self.outliers.answered(self.hosts[number])

    def sweep(self, now: float) -> list[Outlier]:
        return self.outliers.sweep(self.hosts, now=now)[1]

    @property
    def ejected(self) -> list[int]:
        return [number for number, one in enumerate(self.hosts) if one.ejection is not None]


def whys(found: Sequence[Outlier]) -> list[tuple[str, bool]]:
    """The detectors that found an outlier, and whether it was enforced."""
    return [(outlier.kind, not outlier.spared) for outlier in found]


def test_five_in_a_row() -> None:
    """Envoy: BasicFlow5xxViaHttpCodes. The fifth ejects; a success in between resets the count."""
    bench = Bench(1)
    assert bench.fail(0, 4) == []
    bench.succeed(0)
    assert bench.fail(0, 4) == []
    assert whys(bench.fail(0)) == [("consecutive_5xx", True)]
    assert bench.ejected == [0]


@pytest.mark.parametrize("code", [code for code in CODES if code not in ("OK", "CANCELLED")])
def test_what_counts(code: str) -> None:
    """Envoy's map of gRPC statuses to HTTP: which are 5xx, and which of these gateway failures."""
    bench = Bench(1, enforcing_consecutive_gateway_failure=100)
    kinds = [kind for kind, _ in whys(bench.fail(0, 5, Outcome(code)))]
    assert ("consecutive_gateway_failure" in kinds) == (code in GATEWAY)
    assert bool(kinds) == (code in SERVER_ERRORS)


def test_another_5xx_ends_a_row_of_gateway_failures() -> None:
    """The two kinds of consecutive failures are counted separately."""
    bench = Bench(1, enforcing_consecutive_5xx=0, enforcing_consecutive_gateway_failure=100)
    bench.fail(0, 4, GONE)
    bench.fail(0)
    bench.fail(0, 4, GONE)
    assert bench.ejected == []
    bench.fail(0, 1, GONE)
    assert bench.ejected == [0]


def test_the_row_starts_anew_though_nothing_was_enforced() -> None:
    """Envoy: the counter is reset at each detection."""
    bench = Bench(1, enforcing_consecutive_5xx=0)
    assert len(bench.fail(0, 14)) == 2
    assert bench.ejected == []
    assert (bench.outliers.detected, bench.outliers.enforced) == (2, 0)


@pytest.mark.parametrize(
    ("count", "most", "one", "ejected", "overflow"),
    [(3, 50, False, 1, 2), (1, 90, False, 0, 1), (2, 60, False, 1, 1), (3, 10, False, 0, 3), (3, 10, True, 1, 2)],
)
def test_how_many_may_be_ejected(count: int, most: int, one: bool, ejected: int, overflow: int) -> None:
    """Envoy: MaxEjectionPercentage, MaxEjectionPercentageSingleHost, Overflow; its default of 10 % ejects none of 3."""
    bench = Bench(count, max_ejection_percent=most, always_eject_one_host=one)
    for number in range(count):
        bench.fail(number, 5)
    assert bench.ejected == list(range(ejected))
    assert bench.outliers.overflow == overflow


def test_the_time_grows_and_shrinks_again() -> None:
    """Envoy: EjectTimeBackoff. Each ejection lengthens the next by the base; each good interval shortens it by one."""
    bench = Bench(1, base_ejection_time=10.0, interval=10.0)

    def back(now: float) -> float:
        while bench.ejected:
            now += 10.0
            bench.sweep(now)
        return now

    returns = []
    for at in (0.0, 10.0, 30.0):
        bench.fail(0, 5, now=at)
        returns.append(back(at))
    assert returns == [10.0, 30.0, 60.0]
    bench.sweep(70.0)
    bench.sweep(80.0)
    bench.fail(0, 5, now=80.0)
    assert back(80.0) == 100.0
    for sweep in range(11, 61):
        bench.sweep(sweep * 10.0)
    bench.fail(0, 5, now=610.0)
    assert back(610.0) == 620.0


def test_a_host_comes_back_at_a_sweep() -> None:
    """Base 2 s, sweeps every second, ejected again shortly after each return: as measured with a real Envoy."""
    bench = Bench(1, base_ejection_time=2.0, interval=1.0)
    lasted = []
    for ejected in (0.15, 3.03, 8.02):
        bench.fail(0, 5, now=ejected)
        sweeps = range(int(ejected) + 1, int(ejected) + 20)
        back = next(now for now in sweeps if (bench.sweep(float(now)), not bench.ejected)[1])
        lasted.append(back - ejected)
    assert lasted == pytest.approx([2.85, 4.97, 6.98])


def test_the_longest_ejection() -> None:
    """Envoy: max_ejection_time; the count stops there, so that a recovered host soon has short ejections again."""
    bench = Bench(1, base_ejection_time=10.0, max_ejection_time=25.0, interval=1.0)
    lasted = []
    now = 0.0
    for _ in range(6):
        bench.fail(0, 5, now=now)
        start = now
        while bench.ejected:
            now += 1.0
            bench.sweep(now)
        lasted.append(now - start)
    assert lasted == [10.0, 20.0, 25.0, 25.0, 25.0, 25.0]
    assert bench.hosts[0].record.times == 4


def test_jitter_makes_it_longer() -> None:
    """Envoy: max_ejection_time_jitter."""
    bench = Bench(1, draws=0.25, base_ejection_time=10.0, max_ejection_time_jitter=4.0, interval=1.0)
    bench.fail(0, 5, now=0.0)
    bench.sweep(10.0)
    assert bench.ejected == [0]
    bench.sweep(11.0)
    assert bench.ejected == []


def test_success_rate() -> None:
    """Envoy: BasicFlowSuccessRate. 50 % and four times 100 %: mean 90, deviation 20, so 52 % is the least."""
    bench = Bench(5, enforcing_consecutive_5xx=0)
    for number in range(1, 5):
        bench.succeed(number, 200)
    for _ in range(100):
        bench.succeed(0)
        bench.fail(0)
    (found,) = bench.sweep(10.0)
    assert (found.kind, found.host, found.spared) == ("success_rate", bench.hosts[0], "")
    assert "50.0 %" in found.why
    assert "52.0 %" in found.why
    assert bench.ejected == [0]


def test_success_rate_of_too_few() -> None:
    """A host with fewer attempts than the volume is not compared, nor are fewer hosts than the minimum."""
    bench = Bench(5, enforcing_consecutive_5xx=0)
    for number in range(1, 5):
        bench.succeed(number, 200)
    bench.succeed(0, 50)
    bench.fail(0, 49)
    assert bench.sweep(10.0) == []


def test_a_rate_is_that_of_the_last_interval() -> None:
    """Attempts before the last sweep do not count."""
    bench = Bench(5, enforcing_consecutive_5xx=0, enforcing_success_rate=0)
    for number in range(5):
        bench.succeed(number, 200)
    bench.fail(0, 200)
    assert [outlier.kind for outlier in bench.sweep(10.0)] == ["success_rate"]
    assert bench.sweep(20.0) == []


@pytest.mark.parametrize(("enforcing", "ejected"), [(100, [0]), (0, [])])
def test_failure_percentage(enforcing: int, ejected: list[int]) -> None:
    """Envoy: BasicFlowFailurePercentage. Threshold 40, half of 60 failed; by default it is only detected."""
    bench = Bench(
        5,
        enforcing_consecutive_5xx=0,
        enforcing_success_rate=0,
        failure_percentage_threshold=40,
        enforcing_failure_percentage=enforcing,
    )
    for number in range(1, 5):
        bench.succeed(number, 60)
    for _ in range(30):
        bench.succeed(0)
        bench.fail(0)
    assert [outlier.kind for outlier in bench.sweep(10.0)] == ["failure_percentage"]
    assert bench.ejected == ejected


def test_a_failure_percentage_of_0_is_reached_by_all() -> None:
    """This holds in an interval without failures too."""
    bench = Bench(5, failure_percentage_threshold=0, enforcing_success_rate=0)
    for number in range(5):
        bench.succeed(number, 60)
    assert [outlier.kind for outlier in bench.sweep(10.0)] == ["failure_percentage"] * 5


def test_failure_percentage_at_the_threshold() -> None:
    """Envoy ejects at the threshold itself; gRPC A50 only above it."""
    bench = Bench(
        5, enforcing_consecutive_5xx=0, enforcing_success_rate=0, enforcing_failure_percentage=100,
        failure_percentage_threshold=50,
    )  # fmt: skip
    for number in range(1, 5):
        bench.succeed(number, 60)
    bench.succeed(0, 30)
    bench.fail(0, 30)
    bench.sweep(10.0)
    assert bench.ejected == [0]


def test_what_no_server_said_counts_apart_if_split() -> None:
    """Envoy: BasicFlowLocalOriginFailure. With split errors a broken connection is not a 5xx; a response resets its
    count."""
    bench = Bench(1, split_external_local_origin_errors=True)
    bench.fail(0, 4, BROKEN)
    bench.fail(0, 4)
    assert bench.fail(0, 4, BROKEN) == []
    assert whys(bench.fail(0, 1, BROKEN)) == [("consecutive_local_origin_failure", True)]


def test_what_no_server_said_is_a_gateway_failure_if_not_split() -> None:
    """Envoy counts connection failures as 503."""
    bench = Bench(1, enforcing_consecutive_gateway_failure=100)
    kinds = [kind for kind, _ in whys(bench.fail(0, 5, BROKEN))]
    assert kinds == ["consecutive_gateway_failure"]


def test_local_origin_rates() -> None:
    """Split, they are compared among themselves; any response is a success of the connection."""
    bench = Bench(
        5,
        enforcing_consecutive_local_origin_failure=0,
        enforcing_success_rate=0,
        split_external_local_origin_errors=True,
        failure_percentage_threshold=50,
        enforcing_failure_percentage_local_origin=100,
    )
    for number in range(1, 5):
        bench.fail(number, 60, Outcome("NOT_FOUND"))
    bench.fail(0, 60, BROKEN)
    assert [outlier.kind for outlier in bench.sweep(10.0) if not outlier.spared] == ["local_origin_failure_percentage"]
    assert bench.ejected == [0]


@pytest.mark.parametrize(("enforcing", "draw", "ejected"), [(50, 0.49, [0]), (50, 0.5, []), (1, 0.0, [0])])
def test_a_share_of_what_is_detected_is_enforced(enforcing: int, draw: float, ejected: list[int]) -> None:
    """Envoy: random % 100 < enforcing. (C-core draws from 1, so that there 1 % never ejects.)"""
    bench = Bench(1, draws=draw, enforcing_consecutive_5xx=enforcing)
    bench.fail(0, 5)
    assert bench.ejected == ejected


def test_nothing_is_drawn_where_there_is_nothing_to_draw() -> None:
    """The picks of a seed are the same with and without outlier detection."""
    rng = Random(1)
    state = rng.getstate()
    outliers = Outliers(OutlierDetection(), rng)
    one = host("a")
    for _ in range(20):
        outliers.failed(one, GONE, [one], now=0.0)
    assert one.ejection is not None
    assert rng.getstate() == state


def test_our_own_defaults() -> None:
    """Five gateway failures eject one host of three; five other errors eject none."""
    hosts = [host(name) for name in "abc"]
    outliers = Outliers(OutlierDetection(), Random(0))

    def failing(one: HostEntry, outcome: Outcome) -> None:
        for _ in range(5):
            outliers.failed(one, outcome, hosts, now=0.0)

    failing(hosts[0], BAD)
    assert hosts[0].ejection is None
    failing(hosts[1], GONE)
    failing(hosts[2], GONE)
    assert [one.ejection is not None for one in hosts] == [False, True, False]


def test_an_ejected_host_is_not_ejected_again() -> None:
    """Calls in flight may still fail; they neither count nor lengthen the ejection."""
    bench = Bench(2)
    bench.fail(0, 5, now=1.0)
    ejection = bench.hosts[0].ejection
    assert bench.fail(0, 5, now=2.0) == []
    assert bench.hosts[0].ejection is ejection
    assert bench.outliers.enforced == 1


def test_a_host_that_comes_back_starts_afresh() -> None:
    """Envoy resets every count, so that the first error does not eject the host again."""
    bench = Bench(1, base_ejection_time=1.0, interval=1.0)
    bench.fail(0, 5, now=0.0)
    bench.fail(0, 4, now=0.5)
    bench.sweep(1.0)
    assert bench.fail(0, 4, now=1.1) == []
    assert bench.ejected == []


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("consecutive_5xx", 0, "from 1"),
        ("consecutive_gateway_failure", 2.5, "whole number"),
        ("enforcing_success_rate", 101, "from 0 to 100"),
        ("interval", 0, "more than 0"),
        ("base_ejection_time", "30s", "number of seconds"),
        ("max_ejection_time", 29.0, "must not be below base_ejection_time=30.0"),
        ("max_ejection_time_jitter", -1, "0 or more"),
        ("always_eject_one_host", 1, "True or False"),
        ("split_external_local_origin_errors", None, "True or False"),
    ],
)
def test_what_is_refused(field: str, value: object, allowed: str) -> None:
    """The error has the field, the value and the allowed form."""
    with pytest.raises(ConfigError, match=allowed) as error:
        OutlierDetection(**{field: value})  # type: ignore[arg-type]
    assert (error.value.field, error.value.value) == (field, value)


def test_the_longest_time_by_default() -> None:
    """Envoy: the longer of 300 s and the base. (C-core: 30 s, so that its times never grow.)"""
    assert OutlierDetection().longest == 300.0
    assert OutlierDetection(base_ejection_time=400.0).longest == 400.0
