"""One real server on a thousand addresses: ``python many_hosts_server.py PORT ADDRESS...`` until standard input ends.

Each answer is the ``:authority`` of the call, which distinguishes the addresses: a client may use one local port for
connections to several of them.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

METHOD = "/meshlib.testing.ManyHosts/Authority"


def main() -> None:
    """Serve."""
    service, _, method = METHOD[1:].partition("/")
    # grpc.ServicerContext does not offer it; the object behind it does.
    handler = grpc.unary_unary_rpc_method_handler(lambda _, context: context._rpc_event.call_details.host)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = int(sys.argv[1])
    for host in sys.argv[2:]:
        port = server.add_insecure_port(f"{host}:{port}")
    server.start()
    print(f"ready {port}", flush=True)  # noqa: T201
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
