"""The log of meshlib in tests."""

from meshlib._adapt import deferred_log

__all__ = ["flush_logs"]


def flush_logs(timeout: float = 5.0) -> None:
    """Waits until log handlers have had every record made so far.

    meshlib makes the records of its control thread and of grpc's threads where they happen, and has them handled on a
    log thread. A test that reads them, with pytest's ``caplog`` say, calls this before it looks.

    Args:
        timeout: seconds.

    Raises:
        TimeoutError: a handler took longer.
    """
    if not deferred_log.flush(timeout):
        raise TimeoutError(f"log handlers did not finish within {timeout:g} s; one of them blocks")
