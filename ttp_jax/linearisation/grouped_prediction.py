"""The prediction of a run whose groups of weights have rates of their own."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Int

from ttp_jax import outputs, trust
from ttp_jax.dynamics.grouped import GroupedPath, Place, simulate_groups
from ttp_jax.dynamics.grouped_moments import grouped_moments
from ttp_jax.dynamics.path import Places
from ttp_jax.groups import Groups, summed
from ttp_jax.optimizers import SGD
from ttp_jax.reading import Keep, Readings
from ttp_jax.types import InputError, Kept, Params, Task, Trust


@dataclass(frozen=True)
class Linearised:
    """What the dynamics of a task in groups start from."""

    task: Task
    groups: Groups
    shares: Float[np.ndarray, "G nc kc"]
    f0: Float[np.ndarray, "k c"]
    q0: Float[np.ndarray, "G k c"]
    """``J_g w_0g``."""

    @property
    def own(self) -> Float[np.ndarray, "G nc nc"]:
        """Shares of the kernel of what is trained on."""
        return self.shares[:, :, : self.shares.shape[1]]


def linearised(
    task: Task, groups: Groups, shares: Float[np.ndarray, "G kc kc"], *, decayed: bool
) -> Linearised:
    """Outputs at the start and, where weights decay, each group's part in their image.

    Cost: a forward pass and, with decay, ``G`` JVPs a sample.
    """
    joint = task.joint
    f0 = outputs.at_the_start(task.apply_fn, task.params, joint.x)
    q0 = np.zeros((groups.count, *f0.shape))
    if decayed:
        q0 = _images(task, groups, joint.x)
    return Linearised(task, groups, shares[:, : task.n * task.c], f0, q0)


def _images(task: Task, groups: Groups, x) -> Float[np.ndarray, "G k c"]:
    """``J_g w_0g`` of each group. A JVP a sample for each."""
    return np.stack(
        [
            outputs.jvp(task.apply_fn, task.params, x, groups.part(task.params, g))
            for g in range(groups.count)
        ]
    )


def kept(start: Linearised, path: GroupedPath, steps: Int[np.ndarray, " k"]) -> Kept:
    """Linearised models along the way, as :func:`ttp_jax.predict` gives them.

    Weights of different groups are orthogonal: inner products of moves are sums of those in
    each group.

    Cost: ``G`` JVPs a sample.
    """
    task, groups, places = start.task, start.groups, path.kept
    images = _images(task, groups, task.x)
    gram = np.zeros((len(steps) + 1,) * 2)
    for g in range(groups.count):
        own = Places(
            places.outputs, places.alpha[:, g].reshape(len(steps), -1), places.shrink[:, g]
        )
        size = outputs.gram_of_moves(groups.part(task.params, g), ())[0, 0]
        gram += own.gram(start.own[g], images[g].reshape(-1), float(size))
    return Kept(steps, places.outputs, gram)


def simulated(
    start: Linearised,
    sgd: SGD,
    *,
    steps: int,
    seed: int = 0,
    every: int = 1,
    keep: Keep = (),
) -> GroupedPath:
    """:func:`ttp_jax.dynamics.grouped.simulate_groups` from there."""
    return simulate_groups(
        start.shares,
        start.f0,
        start.task.joint.targets,
        sgd,
        loss=start.task.loss,
        steps=steps,
        q0=start.q0,
        seed=seed,
        every=every,
        keep=keep,
    )


def expected(
    start: Linearised, sgd: SGD, *, steps: int, every: int
) -> tuple[Readings, ...]:
    """:func:`ttp_jax.dynamics.grouped_moments.grouped_moments` from there."""
    if start.task.m:
        raise InputError(
            "solver 'moments' with groups has no held-out samples; leave them out"
        )
    path = grouped_moments(
        start.own,
        start.f0,
        start.task.targets,
        sgd,
        loss=start.task.loss,
        steps=steps,
        q0=start.q0,
        every=every,
    )
    return (Readings(path.loss, path.accuracy),)


def judged(
    start: Linearised,
    sgd: SGD,
    path: GroupedPath,
    loss: Float[np.ndarray, " t"],
    *,
    steps: int,
) -> Trust:
    """Stability of the first step and the gaps along the path (:mod:`ttp_jax.trust`).

    Cost: ``2 G`` backward passes a sample.
    """
    task, n = start.task, start.task.n
    rates = sgd.grouped_rates(steps, start.groups.count)
    peak = float(rates.max())
    gaps = [0.0, 0.0]
    for at, place in enumerate((path.end, path.waypoint)):
        if place is not None:
            f = outputs.forward(task.apply_fn, _moved(start, place), task.x)
            gaps[at] = trust.linearization_gap(f, place.outputs[:n], start.f0[:n])
    # Rates by group are a kernel by group; the highest of them is the rate.
    steepest = rates[int(np.argmax(rates.sum(axis=1)))] / peak
    return trust.judge_by_gaps(
        curvature=trust.largest_curvature(
            summed(steepest, start.own), start.f0[:n], task.targets, loss=task.loss
        ),
        gap=gaps[0],
        early_gap=gaps[1],
        sgd=sgd,
        peak_rate=peak,
        predicted_loss=loss,
    )


def _moved(start: Linearised, place: Place) -> Params:
    """Weights ``w_g = (1 - shrink_g) w_0g - J_g^T alpha_g``."""
    task, groups = start.task, start.groups
    back = outputs.vjps(task.apply_fn, task.params, task.x, list(place.alpha))
    by_group = [jax.tree.leaves(each) for each in back]
    leaves, structure = jax.tree.flatten(task.params)
    return structure.unflatten(
        ((1 - place.shrink[g]) * leaf - by_group[g][k]).astype(leaf.dtype)
        for k, (leaf, g) in enumerate(zip(leaves, groups.of_leaf, strict=True))
    )
