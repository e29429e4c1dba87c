"""The control plane: discovery, sweeps and timers as asyncio code shared by both shells.

It waits, so it is not part of the core. It is the same for threads and asyncio, so it is part of neither shell. The
sync shell runs it on its one control thread, the asyncio shell on the application's loop.
"""
