"""Detection of exceptions that only passed through the application's telemetry."""

__all__ = ["interrupted"]


def interrupted(error: BaseException) -> bool:
    """Whether a signal handler raised ``error``, as celery's soft time limit does.

    Python passes the interrupted frame to a handler as an argument, and that frame is also the handler's caller. So a
    frame of the traceback that has its caller among its local variables is a handler's.
    """
    step = error.__traceback__
    while step is not None:
        caller = step.tb_frame.f_back
        if caller is not None:
            for value in step.tb_frame.f_locals.values():
                if value is caller or (type(value) is tuple and caller in value):
                    return True
        step = step.tb_next
    return False
