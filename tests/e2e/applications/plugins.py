"""Both shells, and the servers behind plug-ins of an application."""

from typing import Any

import pytest
from tests.e2e.load import SHELLS, Load, Shell

DEADLINE = 10.0

both_shells = pytest.mark.parametrize("shell", SHELLS)


def answers(shell: Shell, target: str, calls: int = 1, **options: Any) -> list[str]:
    """The names of the servers that answered ``calls`` calls, one after the other."""
    with Load(target, shell=shell, callers=1, **options) as load:
        load.wait_until(lambda: len(load.results) >= calls)
    assert load.failed == []
    return [str(result.server) for result in load.results[:calls]]
