"""What every way of predicting is asked, and what it answers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ttp_jax.kernel.choice import Computed
from ttp_jax.linearisation.calibration import Start
from ttp_jax.optimizers import Optimizer
from ttp_jax.prediction.asked import Asked
from ttp_jax.progress import bar
from ttp_jax.reading import Readings
from ttp_jax.timing import Seconds, measured
from ttp_jax.types import Cost, Kept, Task, Trust


@dataclass(frozen=True)
class Found:
    """A prediction from where the real steps have ended, if there were any."""

    curves: tuple[Readings, ...]
    """Of each of :attr:`Task.parts`."""
    trust: Trust
    timings: Mapping[str, float]
    compile_s: float
    flops: float
    """Of the prediction itself."""
    kept: Kept | None = None
    epochs: Mapping[str, np.ndarray] | None = None


class Way(NamedTuple):
    """One way of predicting; each of the other modules here has one."""

    require: Callable[[Asked], None]
    """Refuses what it cannot use, before anything is computed. Raises ``InputError``."""
    predicted: Callable[[Asked, Start, Cost], Found]
    """The prediction."""
    cost: Callable[[Asked], Cost] = Asked.kernel_cost
    """What its kernel, or else what is in its place, will take; nothing is computed yet."""


class Parts:
    """Seconds of the parts of a prediction, and of the compilation of all of them."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self.compile_s = 0.0

    @contextmanager
    def timed(self, part: str, description: str | None = None) -> Iterator[Seconds]:
        """Count a block as ``part``, under a progress bar where it is described."""
        with measured() as seconds:
            if description is None:
                yield seconds
            else:
                with bar(description, None):
                    yield seconds
        self.add(part, seconds.run_s, seconds.compile_s)

    def add(self, part: str, run_s: float, compile_s: float = 0.0) -> None:
        """Count seconds that were measured elsewhere."""
        self.timings[part] = self.timings.get(part, 0.0) + run_s
        self.compile_s += compile_s

    def add_kernel(self, kernel: Computed) -> None:
        """Count what a kernel took, now or for an earlier prediction."""
        self.add("kernel_s", kernel.run_s, kernel.compile_s)


def dynamics_flops(task: Task, optimizer: Optimizer, steps: int | float) -> float:
    """Operations of so many steps of the linearised dynamics."""
    return 2.0 * steps * (optimizer.batch_size or task.n) * (task.n + task.m) * task.c**2
