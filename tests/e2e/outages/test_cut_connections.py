"""A load balancer cuts connections without GOAWAY and keeps listening: the calls that it ended are retried."""

from contextlib import ExitStack

import pytest
from tests.e2e.load import SHELLS, Load, Shell
from tests.e2e.relay import Relay

from meshlib.testing import ProcessServer

CALLERS = 40
CUTS = 12
DELAY = 30.0  # milliseconds
BETWEEN = 60
"""Calls from one cut to the next: each caller has made a new call."""


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("shell", SHELLS)
def test_no_call_fails_when_connections_are_cut(shell: Shell, hosts: int) -> None:
    """40 callers, 12 cuts of all connections: retries beyond the budget are sent, because the connection was lost,
    although it is back before anything checks it."""
    with ExitStack() as stack:
        servers = [stack.enter_context(ProcessServer()) for _ in range(hosts)]
        relays = [stack.enter_context(Relay(server.address)) for server in servers]
        target = "static:///" + ",".join(relay.address for relay in relays)
        load = stack.enter_context(Load(target, shell=shell, callers=CALLERS, delay=DELAY))
        load.wait_until(lambda: load.ready() == hosts)
        for n in range(CUTS):
            load.wait_for_calls(BETWEEN)
            relays[n % hosts].reset()
        load.wait_for_calls(BETWEEN)
        load.stop()
    assert [(result.code, result.details) for result in load.failed] == []
    # The cuts did end attempts.
    assert load.attempts > len(load.results) + CUTS
