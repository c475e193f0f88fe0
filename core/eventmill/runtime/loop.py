"""The event loop of a process: how it starts, and how a signal ends it."""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from eventmill.interfaces import Queue
from eventmill.shutdown import Shutdown

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_GARBAGE_OBJECTS = 10_000  # Python's default is 700
_LARGE_BYTES = 1024 * 1024  # the step in which bodies are decompressed; what a frame takes is smaller
_FREE_BYTES = 512 * 1024
_RETURN_SECONDS = 5.0


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop if it is installed. Only the owner can read the files that the process creates."""
    os.umask(0o077)
    _return_large_blocks()
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def _return_large_blocks() -> None:
    """Return the memory of large bodies to the system as soon as they are freed.

    glibc stops doing so for sizes that it has seen once, and keeps up to 32 MiB per block in each thread. The same
    happens to the free memory that it keeps at the end of each thread's heap.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _FREE_BYTES)


def shutdown_on_signal() -> Shutdown:
    """Return a shutdown that SIGTERM or Ctrl-C asks for; a second signal ends the process at once."""
    shutdown = Shutdown()

    def handle() -> None:
        if shutdown.is_asked:
            os._exit(1)
        shutdown.ask()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, handle)
    return shutdown


async def manage_memory(queue: Queue, shutdown: Shutdown) -> None:
    """Exempt the loaded code from garbage collection, and return free memory to the system until the shutdown."""
    await freeze_garbage(queue)
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return
    while not shutdown.is_asked:
        await shutdown.sleep(_RETURN_SECONDS)
        await asyncio.to_thread(trim, 0)  # less than 1 ms, or several after a peak


async def freeze_garbage(queue: Queue) -> None:
    """Exempt all loaded code from garbage collection, since scanning it pauses the process for 0.1 s.

    The rest is collected less often: the objects of a few hundred concurrent requests are not garbage.
    """
    with contextlib.suppress(Exception):
        await queue.check()  # drivers are loaded by their first call
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS)
