"""Concurrent A and AAAA queries for one name."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, final

from meshlib._adapt.dns import Answer, RecordType
from meshlib._core.discovery.families import FamilyAnswer, combined, of_family, patience
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.discovery.steps import ResolveError, Step

__all__ = ["Families", "Ipv6"]

Ask = Callable[[str, RecordType, list[Step]], Awaitable[Answer]]
HEAD_START: Final = 1.25
"""Query timeouts to wait for A if AAAA is not wanted, so that a second server may answer."""

NAMES: Final = 4096
"""Maximum number of cached names."""

QUIET: Final = 30.0
"""Seconds without AAAA queries, if they are not needed, after some got no answer."""

Question = asyncio.Task[tuple[FamilyAnswer, ResolveError | None]]


@final
class Ipv6:
    """Cache of AAAA results by name, so that useless queries are not repeated each time."""

    def __init__(self) -> None:
        self._absent: dict[str, float] = {}
        self._quiet: dict[str, float] = {}
        self._failed: dict[str, int] = {}

    def absent(self, name: str) -> bool:
        """Whether ``name`` has none, for as long as the SOA says (RFC 2308)."""
        return _now() < self._absent.get(name, 0.0)

    def quiet(self, name: str) -> bool:
        """Whether recent AAAA queries got no answer while A did, as behind some firewalls."""
        return _now() < self._quiet.get(name, 0.0)

    def note_absent(self, name: str, seconds: float) -> None:
        """Record that there are none for ``seconds``."""
        if seconds > 0:
            _remember(self._absent, name, seconds)

    def note(self, name: str, *, answered: bool) -> None:
        """Record whether AAAA was answered when A was. One miss may be a lost packet."""
        failed = 0 if answered else self._failed.pop(name, 0) + 1
        if failed > 1:
            _remember(self._quiet, name, QUIET)
        elif failed and len(self._failed) < NAMES:
            self._failed[name] = failed
        else:
            self._failed.pop(name, None)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _remember(until: dict[str, float], name: str, seconds: float) -> None:
    now = _now()
    if len(until) >= NAMES:
        for each in [each for each, end in until.items() if end <= now]:
            del until[each]
    if len(until) < NAMES:
        until[name] = now + seconds


@final
class Families:
    """Queries the addresses of both families.

    Args:
        ask: sends one query; raises ResolveError if no server answers.
        policy: DNS configuration; its family is ``"auto"`` or ``"all"``.
        ipv6: cache of AAAA results.
        pair: whether one address of each family makes one host, so both are wanted.
        known: the last good addresses.
    """

    def __init__(self, ask: Ask, policy: DnsPolicy, ipv6: Ipv6, *, pair: bool, known: tuple[str, ...]) -> None:
        self._ask = ask
        self._policy = policy
        self._ipv6 = ipv6
        self._wanted = pair or policy.family == "all"
        self._known = known

    async def ask(self, name: str, steps: list[Step]) -> Answer:
        """Return the addresses of ``name``, which is absolute.

        Raises:
            ResolveError: no server answered with certainty.
        """
        tasks: list[Question] = []
        try:
            tasks.append(asyncio.create_task(self._outcome(name, "A", steps)))
            v6, error = await self._second(name, steps, tasks)
            v4, failed = _ended(tasks[0], "A", name, steps)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        skipped = self._wanted and v6 is None
        found = combined(v4, v6, self._policy.family, known=self._known, skipped=skipped)
        if found is None:
            raise failed or error or ResolveError(f"DNS has no address for {name!r}", steps)
        return Answer(code=found.code or "NOERROR", addresses=found.addresses, ttl=found.ttl)

    async def _second(
        self, name: str, steps: list[Step], tasks: list[Question]
    ) -> tuple[FamilyAnswer | None, ResolveError | None]:
        """Query AAAA once A is answered or need not be waited for; None: not queried."""
        v4, timeout = tasks[0], self._policy.query_timeout
        if self._wanted and self._ipv6.absent(name):
            await asyncio.wait([v4])
            if v4.result()[0].addresses:
                return FamilyAnswer(code="NOERROR"), None
        quiet = self._ipv6.quiet(name)
        if not self._wanted or quiet:
            # One lost packet must not replace known A records by AAAA.
            keep = not self._wanted and bool(of_family(self._known, "v4"))
            await asyncio.wait([v4], timeout=None if keep else HEAD_START * timeout)
            if v4.done():
                outcome = v4.result()[0]
                if outcome.addresses or (keep and outcome.code is None):
                    return None, None
                if outcome.code is not None and self._ipv6.absent(name):
                    return None, None
                if quiet and outcome.code == "NXDOMAIN":
                    return None, None
        v6 = asyncio.create_task(self._outcome(name, "AAAA", steps))
        tasks.append(v6)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        left = [task for task in tasks if not task.done()]
        if left:
            first, second = (task.result()[0] if task.done() else None for task in (v4, v6))
            if not self._wanted and first is not None and first.addresses:
                return None, None
            await asyncio.wait(left, timeout=patience(first, second, self._policy.family, query_timeout=timeout))
        if v4.done() and v4.result()[0].code is not None:
            self._ipv6.note(name, answered=v6.done() and v6.result()[0].code is not None)
        outcome, error = _ended(v6, "AAAA", name, steps)
        if outcome.code is not None and not outcome.addresses:
            self._ipv6.note_absent(name, min(outcome.ttl, self._policy.max_ttl))
        return outcome, error

    async def _outcome(
        self, name: str, rdtype: RecordType, steps: list[Step]
    ) -> tuple[FamilyAnswer, ResolveError | None]:
        try:
            found = await self._ask(name, rdtype, steps)
        except ResolveError as error:
            return FamilyAnswer(code=None), error
        return FamilyAnswer(code=found.code, addresses=found.addresses, ttl=found.ttl), None


def _ended(task: Question, rdtype: str, name: str, steps: list[Step]) -> tuple[FamilyAnswer, ResolveError | None]:
    """Return the outcome of a query; one still running failed."""
    if task.done():
        return task.result()
    steps.append(Step(question=f"{rdtype} {name}", source="the name servers", answer="no answer in time"))
    return FamilyAnswer(code=None), ResolveError(f"no name server answered the {rdtype} query for {name}", steps)
