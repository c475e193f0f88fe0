"""Memory: how much a query may use, as a part of what the machine or its container has."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARE = 0.5  # of the memory, for all queries that run at the same time
DEFAULT_BYTES = 8 * 1024**3  # of a server that does not say
LEAST_BYTES = 64 * 1024**2  # for one query
_SPILL = 0.5  # of a query's memory; beyond it, groups and sorted rows go to the disk


def local_bytes(proc: Path = Path("/proc/self")) -> int:
    """Return the memory of this machine, or that of the container if it is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_container_limits(proc)])


def limits(total_bytes: int, concurrent: int) -> dict[str, Any]:
    """Return the settings that keep as many concurrent queries below their share of the memory."""
    own = max(LEAST_BYTES, int(total_bytes * SHARE / concurrent))
    spill = int(own * _SPILL)
    return {
        "max_memory_usage": own,
        "max_bytes_before_external_group_by": spill,
        "max_bytes_before_external_sort": spill,
    }


def _container_limits(proc: Path) -> Iterator[int]:
    """Yield the memory limits of the control groups that hold this process, of both versions."""
    try:
        paths = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:  # no Linux
        return
    for mount in mounts:
        root, point, (kind, _, options) = mount[3], Path(mount[4]), mount[mount.index("-") + 1 :][:3]
        for _, controllers, path in paths:
            is_v2 = kind == "cgroup2" and not controllers
            is_v1 = kind == "cgroup" and "memory" in controllers.split(",") and "memory" in options.split(",")
            if is_v1 or is_v2:
                name = "memory.max" if is_v2 else "memory.limit_in_bytes"
                yield from _limits_above(point / Path(path).relative_to("/"), point, name)
                yield from _limits_above(point / os.path.relpath(path, root), point, name)


def _limits_above(folder: Path, point: Path, name: str) -> Iterator[int]:
    """Yield the limits of a control group and of those that contain it."""
    for each in (folder, *folder.parents):
        try:
            text = (each / name).read_text().strip()
        except OSError:
            text = ""
        if text.isdecimal():
            yield int(text)
        if each == point:
            return
