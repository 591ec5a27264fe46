"""Available memory and cores."""

from __future__ import annotations

import os
import re

_FALLBACK = 4 * 2**30


def available() -> int:
    """Bytes that can be allocated without swapping, on the machine or in the container."""
    found = [_meminfo(), _cgroup()]
    known = [n for n in found if n is not None]
    return min(known) if known else _FALLBACK


def cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _meminfo() -> int | None:
    try:
        with open("/proc/meminfo") as file:
            match = re.search(r"^MemAvailable:\s+(\d+) kB", file.read(), re.MULTILINE)
        return int(match[1]) * 1024 if match else None
    except OSError:
        try:
            return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // 2
        except (ValueError, OSError, AttributeError):
            return None


def _cgroup() -> int | None:
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            return max(int(limit.read()) - int(used.read()), 0)
    except (OSError, ValueError):
        return None
