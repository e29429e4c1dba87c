"""The shell for threads: performs what the core decides, with grpc's blocking API."""
