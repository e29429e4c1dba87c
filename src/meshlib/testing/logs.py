"""Logs of meshlib in tests."""

from meshlib._adapt import deferred_log

__all__ = ["flush_logs"]


def flush_logs(timeout: float = 5.0) -> None:
    """Wait until log handlers have processed every record created so far.

    Records of the control thread and of grpc threads are handled on a log thread. Call this before reading them, for
    example with pytest's ``caplog``.

    Args:
        timeout: seconds.

    Raises:
        TimeoutError: a handler took longer.
    """
    if not deferred_log.flush(timeout):
        raise TimeoutError(f"log handlers did not finish within {timeout:g} s; one of them blocks")
