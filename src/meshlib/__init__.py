"""What an Envoy sidecar does beside a Python gRPC application, done inside it."""
