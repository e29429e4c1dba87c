"""Detection of exceptions that only passed through the application's telemetry."""

__all__ = ["interrupted"]


def interrupted(error: BaseException) -> bool:
    """Whether a signal handler raised ``error`` (celery's soft time limit does) while other code ran.

    The traceback shows it: Python passes a handler the frame that it interrupts, which is also its caller.
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
