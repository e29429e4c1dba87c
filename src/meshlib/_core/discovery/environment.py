"""Endpoints from the environment: ``MESHLIB_SVC_A_ENDPOINTS=127.0.0.1:5001,127.0.0.1:5002``.

For tests and developers' machines, where neither DNS nor a registry has the service. It precedes everything else. It is
read at each resolution, and a new channel never gets the endpoints of an earlier value.
"""

import re
from collections.abc import Mapping

from meshlib._core.address import HostPort, parse_host_port
from meshlib._core.discovery.steps import ResolveError

__all__ = ["override", "variable"]


def variable(host: str) -> str:
    """Return the variable of ``host``: ``svc-a.example.com`` -> ``MESHLIB_SVC_A_EXAMPLE_COM_ENDPOINTS``."""
    return f"MESHLIB_{re.sub('[^A-Za-z0-9]', '_', host.removesuffix('.')).upper()}_ENDPOINTS"


def override(environ: Mapping[str, str], host: str) -> tuple[HostPort, ...]:
    """Return the entries for ``host``, each with a port; none if the variable is unset or empty.

    Raises:
        ResolveError: an entry is malformed.
    """
    name = variable(host)
    malformed = f"environment variable {name} is malformed"
    entries = []
    for text in environ.get(name, "").split(","):
        if not text.strip():
            continue
        try:
            entry = parse_host_port(text.strip())
        except ValueError as error:
            raise ResolveError(f"{malformed}: {error}") from None
        if entry.port is None:
            raise ResolveError(f"{malformed}: {str(entry)!r} needs a port, as in 127.0.0.1:50051")
        entries.append(entry)
    return tuple(entries)
