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
from types import FrameType

from eventmill.errors import EventmillError

log = logging.getLogger(__name__)

_RESTART_SECONDS = 1.0
_GIVE_UP_CODE = 2


def supervise(work: Callable[[socket.socket], None], listener: socket.socket, count: int) -> None:
    """Run `count` processes until SIGTERM or Ctrl-C, then wait for them to finish. Replace one that dies."""
    stopping = False
    workers = [_start(work, listener) for _ in range(count)]

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
            if worker.exitcode == _GIVE_UP_CODE and not stopping:
                stop(0, None)
                log.error("a worker rejects the configuration: stopping")
            elif not stopping:
                log.error("worker %d died with exit code %s: starting another", worker.pid, worker.exitcode)
                time.sleep(_RESTART_SECONDS)
                workers.append(_start(work, listener))
                if stopping:  # the signal came meanwhile
                    workers[-1].terminate()


def _start(work: Callable[[socket.socket], None], listener: socket.socket) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(work, listener))
    process.start()
    return process


def _work(work: Callable[[socket.socket], None], listener: socket.socket) -> None:
    os.setpgrp()  # Ctrl-C in a terminal reaches only the parent, which forwards it once
    try:
        work(listener)
    except EventmillError as error:
        sys.stderr.write(f"eventmill: {error}\n")
        sys.exit(_GIVE_UP_CODE)
