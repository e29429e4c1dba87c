"""Every decision meshlib takes, and nothing else: no I/O, no clock, no thread, no global random.

Inputs are methods that are told the time (``now``, monotonic seconds, keyword-only); outputs are values that a shell
performs. That is why the same decisions serve threads and asyncio, and why their tests need neither a sleep nor grpc.
"""
