"""Parts of a curve: its first readings, its epochs; and what a score is."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from ttp_jax.types import Curve, InputError


@dataclass(frozen=True)
class Score:
    """One number by which runs are ranked, and on which side the better ones are.

    Scores rank runs on the same data, loss and batches; they are no losses or times.
    """

    name: str
    value: float
    larger_is_better: bool | None
    """``None`` where theory does not say: settle it on runs whose outcome is known."""


def prefix(curve: Curve, steps: int) -> Curve:
    """The readings up to and with a step; of a shorter curve, all of them.

    Timings and operations are those of the whole and left out.

    Args:
        curve: Predicted or measured.
        steps: Last step that may be seen.

    Raises:
        InputError: The curve was first read later.
    """
    seen = np.asarray(curve.steps) <= steps
    if not seen.any():
        raise InputError(
            f"a prefix must hold a reading, got {steps} steps of a curve first read at step "
            f"{curve.steps[0]}; take more steps"
        )
    return select(curve, np.flatnonzero(seen))


def select(curve: Curve, rows: Int[np.ndarray, " k"]) -> Curve:
    """Some of the readings, in order; without timings and operations."""
    bands = {
        name: None if band is None else {level: v[rows] for level, v in band.items()}
        for name, band in (
            ("loss_quantiles", curve.loss_quantiles),
            ("accuracy_quantiles", curve.accuracy_quantiles),
        )
    }
    series = {
        name: np.asarray(getattr(curve, name))[rows]
        for name in ("steps", "loss", "accuracy", "seconds", "operations")
        if getattr(curve, name) is not None
    }
    held_out = None if curve.held_out is None else select(curve.held_out, rows)
    taken = None if curve.batch_loss is None else curve.batch_loss[: series["steps"][-1]]
    return replace(
        curve,
        **series,
        **bands,
        timings={},
        flops=0.0,
        planned_steps=None,
        held_out=held_out,
        batch_loss=taken,
        kept=None,
    )


def batch_log(curve: Curve) -> Curve:
    """What a real run logs for nothing: the mini-batch loss of every step, as a curve.

    The curve that TSE and LCGA were made for. The loss that batch ``k + 1`` sees is read
    after ``k`` updates, so its steps are ``0..s-1``; its accuracy is not known, its seconds
    are those of the run.

    Args:
        curve: Of a real run, or a :func:`prefix` of one.

    Raises:
        InputError: No loss of mini-batches was logged, or no step was taken.
    """
    if curve.batch_loss is None or not len(curve.batch_loss):
        raise InputError(
            "the log of mini-batches needs a real run of at least one step, got a curve "
            "without; take it from ttp.finetune"
        )
    steps = np.arange(len(curve.batch_loss))
    return Curve(
        steps=steps,
        loss=np.asarray(curve.batch_loss, float),
        accuracy=np.full(len(steps), np.nan),
        seconds=np.interp(steps, curve.steps, curve.seconds),
    )


def epoch_of(curve: Curve, steps_per_epoch: int) -> Int[np.ndarray, " t"]:
    """Epoch of every reading, ``floor(k / steps_per_epoch)``, that of the first being 0.

    A loss read after ``k`` updates is the one that batch ``k + 1`` sees, so the reading at
    the end of an epoch is the first of the next. A log may count its epochs from 1.

    Raises:
        InputError: Fewer than one step an epoch.
    """
    if steps_per_epoch < 1:
        raise InputError(
            f"steps_per_epoch must be at least 1, got {steps_per_epoch}; it is the number of "
            "samples over the batch size"
        )
    epoch = np.asarray(curve.steps) // steps_per_epoch
    return epoch - epoch[0]


def whole_epochs(curve: Curve, steps_per_epoch: int) -> Curve:
    """The readings of whole epochs: a last one that would have had more is left out.

    Raises:
        InputError: There is no whole epoch.
    """
    epoch = epoch_of(curve, steps_per_epoch)
    steps = np.asarray(curve.steps)
    spacing = steps[-1] - steps[-2] if len(steps) > 1 else 1
    begun = (steps[-1] + spacing) // steps_per_epoch == steps[-1] // steps_per_epoch
    rows = np.flatnonzero(epoch < epoch[-1]) if begun else np.arange(len(steps))
    if not len(rows):
        raise InputError(
            f"the curve must hold a whole epoch of {steps_per_epoch} steps, got "
            f"{curve.budget_steps} steps; read more of it"
        )
    return select(curve, rows)


def epoch_means(curve: Curve, steps_per_epoch: int) -> Float[np.ndarray, " T"]:
    """Mean loss of every whole epoch ``t = 1..T``.

    ``(1/B) sum_i loss(f_theta(t,i)(X_i), y_i)`` where the curve is a log of every step's
    mini-batch loss; of a curve read on all samples, the mean of what was read in the epoch.

    Raises:
        InputError: No whole epoch, or one without a reading.
    """
    whole = whole_epochs(curve, steps_per_epoch)
    epoch = epoch_of(whole, steps_per_epoch)
    readings = np.bincount(epoch)
    if not readings.all():
        raise InputError(
            f"every epoch of {steps_per_epoch} steps needs a reading, got none in "
            f"{int((readings == 0).sum())} of {len(readings)}; read the curve more often"
        )
    return np.bincount(epoch, weights=whole.loss) / readings
