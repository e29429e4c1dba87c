"""Effect of an attempt's outcome on its host: lost connections, consecutive failures, ejection."""

from collections.abc import Callable
from typing import final

from meshlib._core.attempt import AttemptRecord
from meshlib._core.balancing.picker_snapshot import PickerSnapshot
from meshlib._core.deadlines import BRIEF, EXPIRED
from meshlib._core.health.losses import believed, broke, says_lost
from meshlib._core.health.outlier import Outliers
from meshlib._core.host import HostEntry
from meshlib._core.hosts import HostSet
from meshlib._core.status import Outcome

__all__ = ["OutcomeJudge", "charged"]


def charged(outcome: Outcome, attempt: AttemptRecord | None) -> Outcome:
    """Outcome charged to the host: none for an attempt whose timeout was too short for an answer."""
    if outcome.code != "DEADLINE_EXCEEDED" or outcome.answered or attempt is None or attempt.timeout is None:
        return outcome
    return EXPIRED if attempt.timeout < BRIEF else outcome


@final
class OutcomeJudge:
    """Applies the outcomes of attempts to their hosts. Every method runs in a serialized step.

    Args:
        hosts: of the cluster.
        outliers: its outlier detection; None: off.
        picker: the current picker of the cluster.
        alone: whether the only host of the cluster is used although it is ejected.
    """

    __slots__ = ("_alone", "_hosts", "_outliers", "_picker")

    def __init__(
        self,
        hosts: HostSet,
        outliers: Outliers | None,
        *,
        picker: Callable[[], PickerSnapshot | None],
        alone: Callable[[], bool],
    ) -> None:
        self._hosts = hosts
        self._outliers = outliers
        self._picker = picker
        self._alone = alone

    def reported(
        self,
        host: HostEntry,
        outcome: Outcome,
        seconds: float,
        look: tuple[HostEntry, int, int] | None,
        now: float,
    ) -> str:
        """Apply the end of an attempt after ``seconds``; ``look`` is the state of its connection, if it was read.

        Returns:
            Why the host was ejected; empty: it was not.
        """
        if look is not None:
            self._hosts.seen((look,), now=now)
        picker = self._picker()  # in the step: the picker may have been replaced since the attempt ended
        if picker is not None and picker.listens:
            picker.report(host, outcome.code, seconds, now=now)
        if outcome.code != "OK" or host.struck:
            return self._judge(host, outcome, now - seconds, now)
        return ""

    def lost(self, host: HostEntry, since: float, now: float) -> bool:
        """Whether to believe an attempt, sent at ``since``, that reports its connection lost. If so, requests a
        re-resolution."""
        if not believed(host, since, now):
            return False
        self._hosts.lost = True
        return True

    def _judge(self, host: HostEntry, outcome: Outcome, start: float, now: float) -> str:
        """Count an outcome, unless the attempt was cancelled, failed in this process or was never sent."""
        outliers = self._outliers
        if outcome.code == "OK":
            if outliers is not None:
                outliers.answered(host)
            return ""
        if outcome.local or outcome.refused or outcome.code == "CANCELLED" or host.removed:
            return ""
        if says_lost(outcome):
            # All calls lost with one connection are one failure of the host. Otherwise each crash of a busy server
            # would eject it, and it would stay ejected after its restart.
            counted = start <= host.record.broke_at
            if broke(host, start, now):
                self._hosts.lost = True
            if counted:
                return ""
        if outliers is None:
            return ""
        found = outliers.failed(host, outcome, self._hosts.named, now=now)
        self._hosts.judged(found, now=now, alone=self._alone())
        return host.ejected_for if found else ""
