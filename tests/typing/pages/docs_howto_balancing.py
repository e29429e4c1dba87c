"""The blocks of docs/howto/balancing.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
import meshlib
from meshlib.balancing import LeastRequest, Priorities

channel = meshlib.channel("svc-a", balancer=Priorities(balancer=LeastRequest(), overprovisioning_factor=1.4))
channel.close()

# block 2
from meshlib.discovery import Endpoint
from meshlib.testing import hosts, shares

members = hosts([Endpoint(address=f"10.0.0.{n}:50051", priority=int(n > 10)) for n in range(1, 15)])
for host in members[:5]:
    host.healthy = False
shared = shares(Priorities(), members)
print([round(sum(shared[host.endpoint.address] for host in tier), 1) for tier in (members[:10], members[10:])])
