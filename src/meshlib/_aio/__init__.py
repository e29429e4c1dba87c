"""The shell for asyncio: performs what the core decides, with grpc.aio, on the application's own event loop."""
