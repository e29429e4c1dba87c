"""States of an asyncio channel, and its first call."""

from typing import Any

import grpc
from tests.e2e.aio_world import PATIENCE

from meshlib.testing import echo

READY = grpc.ChannelConnectivity.READY


async def hello(channel: Any) -> Any:
    """Make one successful call."""
    return await channel.unary_unary(echo.UNARY)(b"x", timeout=PATIENCE)
