"""What can be wrong in the shell for threads while the policy is right."""

from tests.shells.mutants.mutation import Mutant

__all__ = ["SYNC"]

SYNC = (
    Mutant(
        name="late timer of a blocked thread",
        module="runtime",
        old="max(0.0, timer - self.now())",
        new="max(0.0, timer - self.now()) + 0.001",
        kinds=("blocking",),
    ),
    Mutant(
        name="late timer of a future",
        module="waiting",
        old="max(0.0, self._when - self._clock.now())",
        new="max(0.0, self._when - self._clock.now()) + 0.001",
        kinds=("future",),
    ),
    Mutant(
        name="lost waker of a blocked thread",
        module="runtime",
        old="call.waker = event.set",
        new="call.waker = None",
        kinds=("blocking",),
    ),
    Mutant(
        name="lost waker of a future",
        module="engine",
        old="self.call.waker = partial(",
        new="_ = partial(",
        kinds=("future",),
    ),
    Mutant(
        name="waiting calls not woken by the close",
        module="runtime",
        old="                    call.wake()\n",
        new="                    pass\n",
        kinds=("blocking",),
    ),
    Mutant(
        name="deadline not shortened for the attempt",
        module="unary",
        old="result = send(data, command.timeout,",
        new="result = send(data, timeout,",
        kinds=("blocking",),
    ),
    Mutant(
        name="no deadline passed to the attempt",
        module="engine",
        old="arguments = (request, command.timeout,",
        new="arguments = (request, None,",
        kinds=("future",),
    ),
    Mutant(
        name="time-out of the policy ignored",
        module="unary",
        old="timeout = plan.timeout",
        new="timeout = None",
        kinds=("blocking",),
    ),
    Mutant(
        name="wait_for_ready of the caller ignored",
        module="unary",
        old="plan.wait_for_ready if wait_for_ready is None else wait_for_ready",
        new="plan.wait_for_ready",
        kinds=("blocking",),
    ),
    Mutant(
        name="retry sent to the first host again",
        module="unary",
        old="subchannel: Any = command.host.subchannel",
        new="subchannel: Any = call.tried[0].subchannel",
        kinds=("blocking",),
    ),
    Mutant(
        name="previous attempts not told to the server",
        module="unary",
        old="for_attempt(sent, command.previous)",
        new="for_attempt(sent, 0)",
        kinds=("blocking",),
    ),
    Mutant(
        name="pushback swallowed",
        module="unary",
        old="outcomes.failed(error, subchannel.target, trailing)",
        new="outcomes.failed(error, subchannel.target, None)",
        kinds=("blocking",),
    ),
    Mutant(
        name="error of the first attempt shown for all",
        module="unary",
        old="if error is not None and len(call.attempts) == 1:",
        new="if error is not None:",
        kinds=("blocking",),
    ),
    Mutant(
        name="lost cancel of a losing hedge",
        module="engine",
        old="                self._stop(self._attempts[command.n])\n            else:",
        new="                pass\n            else:",
        kinds=("hedged",),
    ),
    Mutant(
        name="cancel of the application does not reach the attempt",
        module="engine",
        old="            call.cancel()\n",
        new="            pass\n",
        kinds=("future",),
    ),
    Mutant(
        name="leaked slot of a cancelled attempt",
        module="engine",
        old="            if attempt.reported:\n",
        new="            if attempt.reported or attempt.cancelled:\n",
        kinds=("hedged",),
    ),
    Mutant(
        name="double report",
        module="engine",
        old="            if attempt.reported:\n",
        new="            if False:\n",
        kinds=("stream",),
    ),
    Mutant(
        name="outcome swallowed while somebody reads",
        module="streams",
        old="failed = failed or (attempt.ended and not attempt.readers)",
        new="failed = attempt.ended and not attempt.readers",
        kinds=("stream",),
    ),
    Mutant(
        name="first message does not commit",
        module="streams",
        old='if self.commit(attempt.command.n, "message"):',
        new="if True:",
        kinds=("stream",),
    ),
    Mutant(
        name="requests not sent again",
        module="requests",
        old="        index = 0\n",
        new="        index = self._buffer.end\n",
        kinds=("upload",),
    ),
    Mutant(
        name="an attempt that cannot be repeated does not commit",
        module="requests",
        old='and not call.commit(n, "buffer")',
        new="and False",
        kinds=("upload",),
    ),
    Mutant(
        name="request that a stale attempt waited for is lost",
        module="requests",
        old="                self._buffer.append(data)\n",
        new="                self._stopped or self._buffer.append(data)\n",
        kinds=("chat",),
    ),
    Mutant(
        name="done-callbacks told twice",
        module="engine",
        old="    for callback in callbacks:\n",
        new="    for callback in callbacks * 2:\n",
        kinds=("future",),
    ),
    Mutant(
        name="drained connection never closed",
        module="runtime",
        old='self.clock.spawn(lambda: _close(host), f"meshlib-close-{host.endpoint.address}")',
        new="pass",
        kinds=("blocking",),
    ),
    Mutant(
        name="grpc called under the lock of the call",
        module="engine",
        old="""            commands = self._settled(step(now=self.runtime.now()))
        self._perform(commands, place)
""",
        new="""            commands = self._settled(step(now=self.runtime.now()))
            self._perform(commands, place)
""",
        kinds=("future",),
    ),
)
