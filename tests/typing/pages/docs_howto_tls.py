"""The blocks of docs/howto/tls.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
import grpc
import trustme

import meshlib
from meshlib.testing import DnsServer, Server, ServerTls, echo

# What you have: a CA, and servers with certificates for the name of the service.
ca = trustme.CA()
certificate = ca.issue_cert("svc-a.mesh.test")
tls = ServerTls(certificate.private_key_pem.bytes(), b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
server = Server(tls=tls)
dns = DnsServer()
dns.add("_grpc._tcp.svc-a.mesh.test", "SRV", f"0 1 {server.port} host-17.mesh.test")
dns.add("host-17.mesh.test", "A", "127.0.0.1")

# What you write.
credentials = grpc.ssl_channel_credentials(root_certificates=ca.cert_pem.bytes())
with meshlib.channel(f"srv://{dns.address}/_grpc._tcp.svc-a.mesh.test", credentials=credentials) as channel:
    print(channel.unary_unary(echo.UNARY)(b"in private", timeout=5))

server.close()
dns.close()
