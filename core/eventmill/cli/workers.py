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
    """Keep `count` processes at work until SIGTERM or Ctrl-C; then let them finish. One that dies is replaced."""
    leaving = False
    workers = [_start(work, listener) for _ in range(count)]

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal leaving
        leaving = True
        for worker in workers:
            worker.terminate()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    while workers:
        wait([worker.sentinel for worker in workers])
        for worker in [worker for worker in workers if not worker.is_alive()]:
            workers.remove(worker)
            if worker.exitcode == _GIVE_UP_CODE and not leaving:
                leave(0, None)
                log.error("a worker found the configuration wrong: leaving")
            elif not leaving:
                log.error("worker %d died with exit code %s: starting another", worker.pid, worker.exitcode)
                time.sleep(_RESTART_SECONDS)
                workers.append(_start(work, listener))
                if leaving:  # meanwhile
                    workers[-1].terminate()


def _start(work: Callable[[socket.socket], None], listener: socket.socket) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(work, listener))
    process.start()
    return process


def _work(work: Callable[[socket.socket], None], listener: socket.socket) -> None:
    os.setpgrp()  # Ctrl-C in a terminal reaches the parent alone, which passes it on once
    try:
        work(listener)
    except EventmillError as error:
        sys.stderr.write(f"eventmill: {error}\n")
        sys.exit(_GIVE_UP_CODE)
