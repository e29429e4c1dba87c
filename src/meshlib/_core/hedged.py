"""State machine of one hedged call: several attempts in flight, the first success wins (gRFC A6)."""

import math
from typing import Any, final

from meshlib._core.attempt import AttemptRecord
from meshlib._core.attempts.hedge import Hedges
from meshlib._core.attempts.retry import LOCAL
from meshlib._core.call import Call
from meshlib._core.call_record import FLYING
from meshlib._core.commands import NOTHING, CallCommands, StartAttempt
from meshlib._core.explanation import COMMITTED, OVER_BUDGET, RETRIES_FULL, THROTTLED
from meshlib._core.host import HostEntry
from meshlib._core.policy import Plan
from meshlib._core.status import Outcome

__all__ = ["HedgedCall", "machine"]


@final
class HedgedCall(Call):
    """Call of a method with a hedging policy. Hedges count as retries in the budget, and are never cancelled for being
    slow."""

    def __init__(self, cluster: Any, plan: Plan, method: str, **rest: Any) -> None:
        super().__init__(cluster, plan, method, **rest)
        assert plan.hedging is not None
        self._hedges = Hedges(plan.hedging)

    def on_commit(self, n: int, why: str, *, now: float) -> CallCommands:
        commands = super().on_commit(n, why, now=now)
        if self.committed == n:
            self._hedges.stop(COMMITTED[why])
        return commands

    def on_timer(self, *, now: float) -> CallCommands:
        if self.state is not FLYING:
            return super().on_timer(now=now)
        return self._copy(now) if now >= self._hedges.due else NOTHING

    def next_timer(self) -> float | None:
        if self.state is not FLYING:
            return super().next_timer()
        return None if self._hedges.due == math.inf else self._hedges.due

    def _send(self, host: HostEntry, why: str, now: float) -> StartAttempt:
        if why == "hedge":
            self._hedges.take()
        command = super()._send(host, why, now)
        if why != "refused":
            self._hedges.sent(now=now)
        return command

    def _again(self, attempt: AttemptRecord, outcome: Outcome, now: float) -> CallCommands:
        hedges = self._hedges
        if outcome.local:
            return self._final(attempt, LOCAL, now)
        if not hedges.failed(outcome, now=now):
            return self._final(attempt, f"{outcome.code} is not in non_fatal_status_codes", now)
        held_back = self.cluster.retries.throttled(ok=False)
        if self._flying:
            return self._copy(now) if now >= hedges.due else NOTHING
        if hedges.due == math.inf:
            return self._final(attempt, hedges.why, now)
        if held_back:
            return self._final(attempt, self.cluster.retries.refuse(THROTTLED, now=now), now)
        return self._back_off(attempt, hedges.due - now, "hedge", now)

    def _copy(self, now: float) -> CallCommands:
        """Send the next hedge; if no host or no budget is available, stop hedging."""
        if self.deadline is not None and now >= self.deadline:
            self._hedges.stop("the deadline passed")
            return NOTHING
        retries = self.cluster.retries
        admitted = retries.throttle is None or retries.throttle.allows
        why = "" if admitted else THROTTLED
        if admitted:
            granted = retries.acquire(self)
            why = "" if granted else RETRIES_FULL if granted is None else OVER_BUDGET
        if why:
            self._hedges.stop(retries.refuse(why, now=now))
            return NOTHING
        host = self.cluster.pick(self, now=now, wait=False)
        if type(host) is HostEntry:
            return (self._send(host, "hedge", now),)
        retries.release(self)
        if isinstance(host, Outcome):
            self._broken(host, now)
        self._hedges.stop(host.details if isinstance(host, Outcome) else "no host for another hedged attempt")
        return NOTHING


def machine(plan: Plan) -> type[Call]:
    """State machine class for calls of a method."""
    return Call if plan.hedging is None else HedgedCall
