"""Sans-I/O core: all policy decisions, without I/O, clock, threads or global random.

Inputs are methods that take the time as an argument (``now``, monotonic seconds). Outputs are values that
a shell performs. So threads and asyncio share one core, and its tests need neither a sleep nor grpc.
"""
