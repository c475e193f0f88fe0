"""Several processes behind one listening socket."""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from eventmill.errors import EventmillError
from eventmill.runtime.unix_sockets import own_address

log = logging.getLogger(__name__)

_RESTART_SECONDS = 1.0
_GIVE_UP_CODE = 2


Work = Callable[[socket.socket, Path], None]


def supervise(work: Work, listener: socket.socket, count: int, folder: Path) -> None:
    """Run `count` processes until SIGTERM or Ctrl-C, then wait for them to finish. Replace one that dies.

    Exit with 2 if a process rejects the configuration.

    Args:
        folder: where each process has a socket with the name that `unix_sockets.own_address` returns.
    """
    stopping = is_rejected = False
    workers = [_start(work, listener, folder) for _ in range(count)]

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for worker in workers:
            worker.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while workers:
        wait([worker.sentinel for worker in workers])
        for worker in [worker for worker in workers if not worker.is_alive()]:
            workers.remove(worker)
            own_address(folder, worker.pid).unlink(missing_ok=True)
            if worker.exitcode == _GIVE_UP_CODE and not stopping:
                stop(0, None)
                is_rejected = True
                log.error("a worker rejects the configuration: stopping")
            elif not stopping:
                log.error("worker %d died with exit code %s: starting another", worker.pid, worker.exitcode)
                time.sleep(_RESTART_SECONDS)
                workers.append(_start(work, listener, folder))
                if stopping:  # the signal came meanwhile
                    workers[-1].terminate()
    if is_rejected:
        sys.exit(_GIVE_UP_CODE)


def _start(work: Work, listener: socket.socket, folder: Path) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(work, listener, folder))
    process.start()
    return process


def _work(work: Work, listener: socket.socket, folder: Path) -> None:
    os.setpgrp()  # Ctrl-C in a terminal reaches only the parent, which forwards it once
    try:
        work(listener, folder)
    except EventmillError as error:
        sys.stderr.write(f"eventmill: {error}\n")
        sys.exit(_GIVE_UP_CODE)
