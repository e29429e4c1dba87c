"""Two hosts for tests of the sync shell."""

from collections.abc import Iterator

import pytest

from meshlib.testing import Server


@pytest.fixture
def target() -> Iterator[str]:
    """Two hosts."""
    with Server() as first, Server() as second:
        yield f"static:///{first.address},{second.address}"
