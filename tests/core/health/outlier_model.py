"""A model of outlier detection that stores every outcome and computes everything else from the start."""

import math
from collections.abc import Iterable
from fractions import Fraction
from random import Random

from meshlib._core.health.policy import OutlierDetection
from meshlib._core.host import HostEntry
from meshlib._core.status import Outcome

GATEWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
SERVER_ERRORS = ("UNKNOWN", "UNIMPLEMENTED", "INTERNAL", "DATA_LOSS")


class Story:
    """The history of one host: words, each with its time in seconds.

    ``gateway``, ``server``, ``local``, ``other`` and ``ok`` are outcomes; ``found <kind>`` a detection; ``ejected`` and
    ``returned`` a change; ``swept`` the end of an interval.
    """

    def __init__(self) -> None:
        self.words: list[tuple[str, float]] = []
        self.until = -math.inf

    def say(self, word: str, now: float) -> None:
        self.words.append((word, now))

    @property
    def ejected(self) -> bool:
        ends = [word for word, _ in self.words if word in ("ejected", "returned")]
        return ends[-1:] == ["ejected"]

    def in_a_row(self, counted: Iterable[str], passed: Iterable[str], kind: str) -> int:
        """The number of ``counted`` at the end, with only ``passed`` and words that do not count in between."""
        count = 0
        for word, _ in reversed(self.words):
            if word in counted:
                count += 1
            elif word in passed or word == "swept" or (word.startswith("found ") and word != f"found {kind}"):
                continue
            else:
                break
        return count

    @property
    def rows(self) -> tuple[int, int, int]:
        """Consecutive server errors, gateway failures, and failures without a response."""
        return (
            self.in_a_row(("gateway", "server"), ("local",), "consecutive_5xx"),
            self.in_a_row(("gateway",), ("local",), "consecutive_gateway_failure"),
            self.in_a_row(("local",), (), "consecutive_local_origin_failure"),
        )

    @property
    def interval(self) -> tuple[int, int, int]:
        """Responses, failed ones among them, and failures without a response since the last sweep."""
        recent: list[str] = []
        for word, _ in reversed(self.words):
            if word == "swept":
                break
            recent.append(word)
        bad = recent.count("gateway") + recent.count("server")
        return recent.count("ok") + recent.count("other") + bad, bad, recent.count("local")

    def times(self, policy: OutlierDetection) -> int:
        """The length of the next ejection in multiples of the first, less one."""
        base, longest = policy.base_ejection_time, policy.longest
        times, out, back = 0, False, -math.inf
        for word, at in self.words:
            if word == "ejected":
                out = True
                times += times * base < longest + base
            elif word == "returned":
                out, back = False, at
            elif word == "swept" and not out and at - back >= policy.interval:
                times = max(0, times - 1)
        return times


LASTED = 0.1
"""Seconds per attempt."""


class Model:
    """Envoy's detector, computed from the start each time."""

    def __init__(self, policy: OutlierDetection, dice: Random, now: float) -> None:
        self.policy = policy
        self.dice = dice
        self.stories: dict[HostEntry, Story] = {}
        self.broke: dict[HostEntry, float] = {}
        self.sweep_at = now + policy.interval
        self.ejections = 0
        self.spared = 0
        self.overflow = 0

    def story(self, host: HostEntry) -> Story:
        return self.stories.setdefault(host, Story())

    def outcome(self, host: HostEntry, outcome: Outcome, hosts: list[HostEntry], now: float) -> None:
        story, policy = self.story(host), self.policy
        if outcome.code == "OK":
            story.say("ok", now)
        elif outcome.local or outcome.refused or outcome.code == "CANCELLED" or host not in hosts:
            return
        elif outcome.code == "UNAVAILABLE" and not outcome.answered and now - LASTED <= self.broke.get(host, -1e9):
            return  # of a connection whose end was already counted
        elif policy.split_external_local_origin_errors and not outcome.answered:
            self.broken(host, outcome, now)
            story.say("local", now)
            if story.rows[2] >= policy.consecutive_local_origin_failure:
                enforcing = policy.enforcing_consecutive_local_origin_failure
                self.found(host, "consecutive_local_origin_failure", enforcing, hosts, now)
        elif outcome.code in GATEWAY:
            self.broken(host, outcome, now)
            story.say("gateway", now)
            if story.rows[1] >= policy.consecutive_gateway_failure:
                enforcing = policy.enforcing_consecutive_gateway_failure
                self.found(host, "consecutive_gateway_failure", enforcing, hosts, now)
        elif outcome.code in SERVER_ERRORS:
            story.say("server", now)
        else:
            story.say("other", now)
        if story.rows[0] >= policy.consecutive_5xx:
            self.found(host, "consecutive_5xx", policy.enforcing_consecutive_5xx, hosts, now)

    def broken(self, host: HostEntry, outcome: Outcome, now: float) -> None:
        if outcome.code == "UNAVAILABLE" and not outcome.answered:
            self.broke[host] = now

    def found(self, host: HostEntry, kind: str, enforcing: float, hosts: list[HostEntry], now: float) -> None:
        policy, story = self.policy, self.story(host)
        if story.ejected:
            return
        story.say(f"found {kind}", now)
        out = sum(self.story(each).ejected for each in hosts)
        within = Fraction(100 * (out + 1), len(hosts)) <= Fraction(policy.max_ejection_percent)
        if enforcing == 0:
            self.spared += 1
        elif not within and not (out == 0 and policy.always_eject_one_host):
            self.overflow += 1
            self.spared += 1
        elif enforcing < 100 and self.dice.random() * 100 >= enforcing:
            self.spared += 1
        else:
            self.ejections += 1
            story.say("ejected", now)
            jitter = self.dice.random() * policy.max_ejection_time_jitter if policy.max_ejection_time_jitter else 0
            story.until = now + min(policy.base_ejection_time * story.times(policy), policy.longest) + jitter

    def sweep(self, hosts: list[HostEntry], now: float) -> None:
        policy = self.policy
        self.sweep_at = now + policy.interval
        for host in hosts:
            story = self.story(host)
            if story.ejected and story.until <= now:
                story.say("returned", now)
        stories = [(host, self.story(host)) for host in hosts if not self.story(host).ejected]
        answers = [(host, *story.interval[:2]) for host, story in stories]
        self.rates(answers, policy.enforcing_success_rate, policy.enforcing_failure_percentage, "", hosts, now)
        if policy.split_external_local_origin_errors:
            sent = [(host, story.interval[0] + story.interval[2], story.interval[2]) for host, story in stories]
            chances = policy.enforcing_local_origin_success_rate, policy.enforcing_failure_percentage_local_origin
            self.rates(sent, *chances, "local_origin_", hosts, now)
        for host in hosts:
            self.story(host).say("swept", now)

    def rates(
        self,
        counts: list[tuple[HostEntry, int, int]],
        success_rate: float,
        failure_percentage: float,
        origin: str,
        hosts: list[HostEntry],
        now: float,
    ) -> None:
        """``counts``: host, attempts, failures. All values are squared, so that they stay exact."""
        policy = self.policy
        rates = [
            (host, Fraction(100 * (n - bad), n)) for host, n, bad in counts if n >= policy.success_rate_request_volume
        ]
        if len(rates) >= policy.success_rate_minimum_hosts:
            mean = sum(rate for _, rate in rates) / Fraction(len(rates))
            variance = sum((rate - mean) ** 2 for _, rate in rates) / len(rates)
            for host, rate in rates:
                below = mean - rate
                if below > 0 and below**2 > variance * Fraction(policy.success_rate_stdev_factor, 1000) ** 2:
                    self.found(host, f"{origin}success_rate", success_rate, hosts, now)
        shares = [
            (host, Fraction(100 * bad, n)) for host, n, bad in counts if n >= policy.failure_percentage_request_volume
        ]
        if len(shares) >= policy.failure_percentage_minimum_hosts:
            for host, share in shares:
                if share >= policy.failure_percentage_threshold:
                    self.found(host, f"{origin}failure_percentage", failure_percentage, hosts, now)
