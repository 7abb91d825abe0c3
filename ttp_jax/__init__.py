"""Predict the time and the curves of fine-tuning a pre-trained network, without training it.

A task (model, data, loss) gives a kernel; the kernel drives the dynamics; the dynamics give
a prediction. Beside it, fine-tuning runs the same task for real.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING

from ttp_jax._version import __version__

if TYPE_CHECKING:
    from ttp_jax.finetune import finetune
    from ttp_jax.optimizers import SGD, Adam
    from ttp_jax.prediction import predict
    from ttp_jax.thresholds import (
        BestStep,
        TimeToThreshold,
        best_step,
        time_to_threshold,
    )
    from ttp_jax.types import Curve, InputError, Task, Trust

__all__ = [
    "SGD",
    "Adam",
    "BestStep",
    "Curve",
    "InputError",
    "Task",
    "TimeToThreshold",
    "Trust",
    "__version__",
    "best_step",
    "finetune",
    "predict",
    "time_to_threshold",
]

_HOME = {
    "SGD": "optimizers",
    "Adam": "optimizers",
    "BestStep": "thresholds",
    "Curve": "types",
    "InputError": "types",
    "Task": "types",
    "TimeToThreshold": "thresholds",
    "Trust": "types",
    "best_step": "thresholds",
    "finetune": "finetune",
    "predict": "prediction",
    "time_to_threshold": "thresholds",
}


def __getattr__(name: str):
    """Load what is asked for when it is asked for: optax and scipy take their time."""
    if name not in _HOME:
        raise AttributeError(f"module 'ttp_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ttp_jax.{_HOME[name]}"), name)
    globals()[name] = value
    return value


class _Package(types.ModuleType):
    """A function may share its name with its module: importing that keeps the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
