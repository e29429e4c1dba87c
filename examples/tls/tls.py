"""TLS with certificates at both ends: servers behind SRV records, verified by the name of the service."""

import grpc
import trustme

import meshlib
from meshlib.testing import DnsServer, Server, ServerTls, echo

SERVICE = "svc-a.mesh.test"


def issue(ca: trustme.CA, name: str) -> tuple[bytes, bytes]:
    """A private key and a certificate chain."""
    certificate = ca.issue_cert(name)
    return certificate.private_key_pem.bytes(), b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


def told(target: str, credentials: grpc.ChannelCredentials) -> str:
    """Result of one call."""
    with meshlib.channel(target, credentials=credentials, retry=None) as channel:
        try:
            return channel.unary_unary(echo.UNARY)(b"in private", timeout=5).decode()
        except grpc.RpcError as error:
            return error.code().name


def main() -> None:
    ca, other_ca = trustme.CA(), trustme.CA()
    root = ca.cert_pem.bytes()
    key, chain = issue(ca, SERVICE)
    client_key, client_chain = issue(ca, "client.mesh.test")
    with DnsServer() as dns, Server(tls=ServerTls(key, chain, client_ca=root)) as server:
        for service in (SERVICE, "svc-b.mesh.test"):
            dns.add(f"_grpc._tcp.{service}", "SRV", f"0 1 {server.port} host-17.mesh.test")
        dns.add("host-17.mesh.test", "A", "127.0.0.1")
        target = f"srv://{dns.address}/_grpc._tcp.{SERVICE}"
        ours = grpc.ssl_channel_credentials(root, client_key, client_chain)

        print("both verified:", told(target, ours))
        print("another name leads to the same server:", told(f"srv://{dns.address}/_grpc._tcp.svc-b.mesh.test", ours))
        print("a CA that did not sign it:", told(target, grpc.ssl_channel_credentials(other_ca.cert_pem.bytes())))
        print("no certificate of the client:", told(target, grpc.ssl_channel_credentials(root)))


if __name__ == "__main__":
    main()
