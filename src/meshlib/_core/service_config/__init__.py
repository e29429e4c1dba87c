"""A gRPC service config as meshlib's own policies."""

from meshlib._core.service_config.parse import ServiceConfig, parse

__all__ = ["ServiceConfig", "parse"]
