"""The control plane: discovery, sweeps and timers as one piece of asyncio code for both shells.

It waits, so it is no part of the core; it is the same for threads and asyncio, so it is no part of either shell. The
sync shell runs it on its one control thread, the asyncio shell on the application's loop.
"""
