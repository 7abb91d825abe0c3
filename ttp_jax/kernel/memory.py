"""How many bytes a kernel may use: a share of what is free now, or what the caller says."""

import os
from pathlib import Path

import jax

from ttp_jax.types import InputError

SHARE_OF_FREE = 0.5
"""Of the free memory; the rest stays for compilation, the spectrum and everybody else."""


def resolve_budget(memory_budget_bytes: int | None) -> int:
    """The budget in bytes: as given, or half of what is free on the device JAX uses.

    Raises:
        InputError: A budget that is not a positive number.
    """
    if memory_budget_bytes is None:
        return int(SHARE_OF_FREE * free_bytes())
    if not memory_budget_bytes > 0:
        raise InputError(
            f"the memory budget must be a positive number of bytes, got "
            f"{memory_budget_bytes}; leave it out for half of the free memory"
        )
    return int(memory_budget_bytes)


def free_bytes() -> int:
    """Free memory of the first device: the accelerator's, or this machine's on a CPU."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return min(_machine_free_bytes(), _container_free_bytes())


def _machine_free_bytes() -> int:
    # What the kernel would hand out without swapping, its own file cache included;
    # sysconf counts only pages that hold nothing at all.
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        return page * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError):
        return page * os.sysconf("SC_PHYS_PAGES") // 2


def _container_free_bytes() -> int:
    # A container may be allowed less than the machine has.
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            return max(int(Path(limit).read_text()) - int(Path(used).read_text()), 0)
        except (OSError, ValueError):
            continue
    return 1 << 62


def readable(size: int | float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
