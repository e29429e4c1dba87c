"""A certificate authority of the tests, and servers with its certificates."""

import grpc
import trustme

from meshlib.testing import Server, ServerTls

CA = trustme.CA()
ROOT = CA.cert_pem.bytes()
TRUST = grpc.ssl_channel_credentials(ROOT)


def served_as(*names: str, client_ca: bytes | None = None) -> ServerTls:
    """A server's TLS settings with a certificate for these names."""
    certificate = CA.issue_cert(*names)
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return ServerTls(certificate.private_key_pem.bytes(), chain, client_ca)


def tls_server(*names: str, name: str | None = None, client_ca: bytes | None = None) -> Server:
    """A server with a certificate for these names."""
    return Server(name=name, tls=served_as(*names, client_ca=client_ca))
