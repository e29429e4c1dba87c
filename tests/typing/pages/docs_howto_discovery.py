"""The blocks of docs/howto/discovery.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
import meshlib

policy = meshlib.DnsPolicy(
    family="v4",  # A records only; "v6": AAAA only; "auto" and "all" as above
    query_timeout=0.5,  # seconds for one query to one server
    timeout=3.0,  # seconds for all queries of one resolution
    max_ttl=10.0,  # query at least every 10 seconds
    allow_empty=True,  # no records: no instances
)
channel = meshlib.channel("svc-a", dns=policy)
channel.close()

# block 2
import json
from pathlib import Path

from meshlib.discovery import Endpoint, Resolution, Target, register_resolver


class FileResolver:
    """Endpoints from a JSON list of addresses: ``jsonfile:///etc/mesh/svc-a.json``."""

    def __init__(self, target: Target) -> None:
        self.path = Path("/") / target.host

    def resolve(self, previous: Resolution | None) -> Resolution:
        addresses = json.loads(self.path.read_text())
        return Resolution(endpoints=tuple(Endpoint(address=address) for address in addresses), ttl=2.0)


register_resolver("jsonfile", FileResolver)
