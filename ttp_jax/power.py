"""Power that the machine draws, where it can be read: GPUs by nvidia-smi, CPUs by RAPL."""

import shutil
import subprocess
import time
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
"""Where Linux has the energy counters of the processors (RAPL)."""


def watts(over_s: float = 1.0, *, powercap: Path = POWERCAP) -> float | None:
    """Mean power over the next moments: call it while a training run is going on.

    The sum of all processor packages, from their energy counters before and after, and of all
    NVIDIA GPUs, as ``nvidia-smi`` says after that time.

    Args:
        over_s: How long to measure, in seconds. Counters move about a thousand times a second.
        powercap: The folder of the counters.

    Returns:
        Watts; ``None`` where neither can be read. Counters are often for the administrator
        alone, and virtual machines have none.
    """
    before = _energy_j(powercap)
    start = time.perf_counter()
    time.sleep(over_s)
    after = _energy_j(powercap)
    took_s = time.perf_counter() - start
    # A counter that has begun again from zero in between tells nothing.
    of_cpus = [
        (after[name] - joules) / took_s
        for name, joules in before.items()
        if after.get(name, -1.0) >= joules
    ]
    found = of_cpus + _gpu_watts()
    return sum(found) if found else None


def _energy_j(powercap: Path) -> dict[str, float]:
    """Joules by package; parts of a package are counted in it."""
    found = {}
    for counter in powercap.glob("intel-rapl:[0-9]*/energy_uj"):
        name = counter.parent.name
        if name.count(":") > 1:
            continue
        try:
            found[name] = 1e-6 * int(counter.read_text())
        except (OSError, ValueError):
            continue
    return found


def _gpu_watts() -> list[float]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    asked = [tool, "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
        return [float(line) for line in said.stdout.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
