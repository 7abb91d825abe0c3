"""A piece of the path of :mod:`ttp_jax.dynamics.simulate`, as long as it stays near."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ttp_jax.dynamics import recursion
from ttp_jax.dynamics.recursion import State
from ttp_jax.optimizers import SGD
from ttp_jax.reading import Readings, of_parts
from ttp_jax.types import LossName


@dataclass(frozen=True)
class Segment:
    """Steps ``first..last`` of a linearised path, and how to move the weights along it.

    With weights ``w`` and velocity ``v`` at ``first``, ``J`` the Jacobian there and
    ``origin`` what weight decay pulls to, the weights at ``last`` are
    ``w - J^T alpha - shrink (w - origin) - coast v`` and the velocity
    ``J^T beta + pull (w - origin) + speed v``.
    """

    first: int
    last: int
    curves: tuple[Readings, ...]
    """At each step, ``first`` and ``last`` with it, of the samples that are trained on and,
    where there are any, of those held out, in their parts. All else is of the former."""
    moved: Float[np.ndarray, " t"]
    """``|f - f_first|``."""
    outputs: Float[np.ndarray, "n c"]
    """At ``last``, as the linearisation has them."""
    alpha: Float[np.ndarray, "n c"]
    beta: Float[np.ndarray, "n c"]
    shrink: float
    pull: float
    coast: float
    speed: float

    def read_at(self, steps: Int[np.ndarray, " s"]) -> tuple[Readings, ...]:
        """Its curves at steps from the first on; NaN behind where it has ended."""
        there, at = steps <= self.last, np.minimum(steps, self.last) - self.first

        def found(values: np.ndarray) -> np.ndarray:
            return np.where(there, values[at], np.nan)

        return tuple(Readings(found(c.loss), found(c.accuracy)) for c in self.curves)


def segment(
    theta: Float[np.ndarray, "nc kc"],
    f0: Float[np.ndarray, "k c"],
    targets: Float[np.ndarray, "k c"],
    sgd: SGD,
    *,
    loss: LossName,
    steps: int,
    first: int,
    last: int,
    u0: Float[np.ndarray, "k c"] | None = None,
    q0: Float[np.ndarray, "k c"] | None = None,
    seed: int = 0,
    farthest: float = np.inf,
    sizes: tuple[int, ...] | None = None,
) -> Segment:
    """From ``f0`` at step ``first`` to step ``last``, or until the outputs have gone so far.

    The recursion is that of :func:`ttp_jax.dynamics.simulate.simulate`; here it begins and
    ends where it is told, and leaves what the weights need for going there.

    Args:
        theta: Kernel at the weights of step ``first``, rows those of the ``n`` samples that
            are trained on and columns those of all ``k``, the former first.
        f0: Outputs there.
        targets: Targets ``[k, c]``.
        sgd: The optimiser.
        loss: ``"mse"`` or ``"cross_entropy"``.
        steps: ``T`` of the whole path, which schedule and stream are made for.
        first: Step at which the segment begins.
        last: Step at which it ends at the latest.
        u0: ``J v`` of the velocity at ``first``.
        q0: ``J (w - origin)``, needed with weight decay.
        seed: Of the stream of mini-batches.
        farthest: The segment ends where ``|f - f0|`` is that much; it has one step at least.
        sizes: Of the groups of samples that curves are read on apart
            (:attr:`ttp_jax.Task.sizes`), the ``n`` first; by default these and all others.

    Cost: ``B k c^2`` multiply-adds a step, in float64. One compiled loop for all segments
    of a path, whatever their length.

    Breaks when: the model leaves its linearisation, which only the model itself can tell.
    """
    n, k = len(theta) // f0.shape[1], len(f0)
    if sizes is None:
        sizes = (n, k - n) if k > n else (n,)
    batches = sgd.batches(n, steps, seed)
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        state, end, curves = _loop(
            f64(theta).reshape(n, -1, f0.size),
            f64(f0),
            f64(targets),
            f64(sgd.decay_origin(f0, q0)),
            f64(np.zeros_like(f0) if u0 is None else u0),
            jnp.asarray(sgd.learning_rates(steps)),
            None if batches is None else jnp.asarray(batches),
            jnp.asarray(first),
            jnp.asarray(last),
            f64(farthest),
            sgd.momentum,
            sgd.weight_decay,
            loss=loss,
            nesterov=sgd.nesterov,
            sizes=sizes,
        )
        read, moved = jax.tree.map(
            lambda values: np.asarray(values)[first : int(end) + 1], curves
        )
        return Segment(
            first,
            int(end),
            tuple(Readings(*pair) for pair in read),
            moved,
            outputs=np.asarray(state.f[:n]),
            alpha=np.asarray(state.alpha),
            beta=np.asarray(state.beta),
            shrink=float(state.shrink),
            pull=float(state.pull),
            coast=float(state.coast),
            speed=float(state.speed),
        )


@partial(jax.jit, static_argnames=("loss", "nesterov", "sizes"))
def _loop(
    theta,
    f0,
    targets,
    origin,
    u0,
    rates,
    batches,
    first,
    last,
    farthest,
    mu,
    weight_decay,
    *,
    loss,
    nesterov,
    sizes,
):
    n = len(theta)

    def step(carry):
        k, state, curves = carry
        new = recursion.step(
            state,
            theta,
            targets[:n],
            origin,
            rates[k],
            None if batches is None else batches[k],
            mu,
            weight_decay,
            loss=loss,
            nesterov=nesterov,
            along_q0=True,
        )
        return k + 1, new, noted(curves, k + 1, new.f)

    def noted(curves, k, f):
        moved = jnp.linalg.norm(f[:n] - f0[:n])
        seen = (of_parts(loss, f, targets, sizes), moved)
        return jax.tree.map(lambda c, v: c.at[k].set(v), curves, seen)

    def goes_on(carry):
        k, _, (_, moved) = carry
        near = moved[k] < farthest  # false for NaN: a path that diverged has ended
        return (k < last) & (near | (k == first))

    series = jnp.zeros(len(rates) + 1)
    empty = (((series, series),) * len(sizes), series)
    k, state, curves = jax.lax.while_loop(
        goes_on, step, (first, State.at_the_start(f0, u0, n), noted(empty, first, f0))
    )
    return state, k, curves
