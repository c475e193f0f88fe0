"""A control group with little memory, as a container has, for programs of tests."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class NoControlGroup(Exception):
    """This machine cannot limit the memory of a group; the message says why."""


@dataclass(frozen=True, slots=True)
class Group:
    """A control group."""

    folder: Path

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Start the programs of the group here: they inherit it from this process."""
        (self.folder / "cgroup.procs").write_text(f"{os.getpid()}")
        try:
            yield
        finally:
            (self.folder.parent / "cgroup.procs").write_text(f"{os.getpid()}")

    @property
    def peak_megabytes(self) -> int:
        return int((self.folder / "memory.max_usage_in_bytes").read_text()) // 1024**2


@contextmanager
def limited_memory(megabytes: int) -> Iterator[Group]:
    """Yield a group with this much memory. Raises NoControlGroup."""
    if os.geteuid() != 0:
        raise NoControlGroup("only root may create a control group")
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "cgroup", "-o", "memory", "none", folder]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            raise NoControlGroup(f"no control groups for memory: {done.stderr.decode().strip()}")
        group = Path(folder) / f"eventmill-{os.getpid()}"
        try:
            group.mkdir()
            (group / "memory.limit_in_bytes").write_text(f"{megabytes * 1024 * 1024}")
            yield Group(group)
        finally:
            group.rmdir()
            subprocess.run(["umount", folder], check=True)
