"""The channel an application holds: a ``grpc.Channel`` like any other."""
