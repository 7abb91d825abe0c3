"""Steps whose groups of weights have rates of their own, and end one after the other.

What is frozen is left out of the gradient, of the optimiser and, where the model can be cut,
of the forward pass: one program for each number of frozen groups, since multiplying an update
by zero inside one program saves nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from ttp_jax import outputs, programs
from ttp_jax.accelerators import freezeout
from ttp_jax.groups import Groups, Stages, cut_at
from ttp_jax.optimizers import SGD
from ttp_jax.training.loop import Steps
from ttp_jax.training.plain import decay_of
from ttp_jax.types import ApplyFn, Params, Task


class Staged(NamedTuple):
    """Between two steps."""

    params: Params
    """Those of the frozen groups as they are for good; of the others as they were when the
    stage began."""
    active: list[Any]
    """Leaves of the groups that still learn."""
    velocity: list[Any]
    """Of these."""
    x: Any
    """Inputs: outputs of the frozen groups where the model is cut behind them."""
    gradient: list[Any] | None
    """Accumulated, where a rule asks for it."""


@dataclass
class GradientRule:
    """AutoFreeze (:func:`ttp_jax.accelerators.freezeout.autofreeze`) along a real run.

    Args:
        ends: Steps after which an interval ends.
    """

    ends: Int[np.ndarray, " i"]
    norms: Float[np.ndarray, "i G"] = field(default_factory=lambda: np.zeros((0, 0)))
    """What it has seen."""
    frozen: list[int] = field(default_factory=lambda: [0])
    """How many groups are frozen, after each interval."""

    def see(self, norms: Float[np.ndarray, " G"]) -> None:
        """Decide by the norms of one more interval."""
        self.norms = np.vstack([self.norms.reshape(-1, len(norms)), norms])
        self.frozen.append(freezeout.autofreeze(self.norms, self.frozen[-1]))


def staged_steps(
    task: Task,
    sgd: SGD,
    groups: Groups,
    *,
    steps: int,
    seed: int,
    cached: bool = True,
    rule: GradientRule | None = None,
) -> Steps:
    """Steps by rates ``[T, G]``; leading groups whose rates stay zero are frozen for good.

    Args:
        task: What to train.
        sgd: How; to a group that learns, what optax's own would be.
        groups: Of the weights.
        steps: ``T``.
        seed: Of the stream of mini-batches.
        cached: Put by what the frozen groups give for each sample, where the model is a
            :class:`ttp_jax.types.Chain` of these groups. Right where nothing changes the
            inputs from epoch to epoch.
        rule: Freezes further groups by the gradients that it sees.

    Raises:
        InputError: Rates for another number of groups.

    Cost: of a step the operations of its stage's program over those of one that freezes
    nothing, both as XLA counts them once compiled, times ``3 B`` forward passes. To put by
    outputs takes a forward pass of all samples through what is newly frozen, which counts as
    training.
    """
    rates = sgd.grouped_rates(steps, groups.count)
    frozen_at, etas = freezeout.frozen_at(rates), jnp.asarray(rates)
    stream = sgd.batches(task.n, steps, seed)
    if stream is not None:
        stream = jnp.asarray(stream)
    y = jnp.asarray(task.targets)
    whole = (
        3
        * outputs.forward_flops(task.apply_fn, task.params, task.x)
        * (sgd.batch_size or task.n)
    )
    stages: dict[int, _Stage] = {}
    now, spent = [0], [0.0]
    """Groups that are frozen now; operations after each step that was taken."""

    def freeze(state: Staged, frozen: int) -> Staged:
        """On to the next stage: what has stopped learning is taken out of everything."""
        before = stages[now[0]]
        params = groups.with_active(state.params, state.active, now[0])
        learns = [g >= frozen for g in groups.of_leaf if g >= now[0]]

        def left(leaves: list[Any]) -> list[Any]:
            return [v for v, stays in zip(leaves, learns, strict=True) if stays]

        if frozen not in stages:
            cut = cut_at(task.apply_fn, groups, frozen) if cached else None
            stages[frozen] = _Stage(cut)
        x = state.x
        between = before.until(stages[frozen])
        if between is not None:
            x = jnp.asarray(outputs.forward(between, params, x))
        now[0] = frozen
        gradient = None if state.gradient is None else left(state.gradient)
        return Staged(params, left(state.active), left(state.velocity), x, gradient)

    def prepare(state: Staged, frozen: int) -> None:
        stage = stages[frozen]
        rows = None if stream is None else stream[0]
        asked = (*state, etas[0], y, rows)

        def make() -> Any:
            apply_fn = stage.cut[1] if stage.cut else task.apply_fn
            update = _update(apply_fn, task, sgd, groups, frozen)
            return jax.jit(update).lower(*asked).compile()

        # Rates are arguments: runs that differ in them alone share their programs. Initial
        # weights that the decay goes toward are a part of them.
        key = replace(sgd, learning_rate=1.0), task.loss, groups, frozen, stage.cut is None
        own = sgd.weight_decay > 0 and sgd.decay_toward == "initial"
        key = (*key, programs.shape_of(asked))
        compiled = make() if own else programs.kept(task.apply_fn, key, make)
        stage.compiled = compiled
        stage.flops = float((compiled.cost_analysis() or {}).get("flops", 0.0))
        # What a program does the first time only, it does before the clock runs.
        jax.block_until_ready(compiled(*asked))
        if state.gradient is not None:
            _norms(_zeros(state.gradient), groups, frozen)  # compiles

    def start() -> Staged:
        now[0], spent[:] = 0, [0.0]
        params = jax.tree.map(jnp.asarray, task.params)
        active = jax.tree.leaves(params)
        zeros = [jnp.zeros_like(leaf) for leaf in active]
        gradient = None if rule is None else zeros
        state = at = Staged(params, active, zeros, jnp.asarray(task.x), gradient)
        stages[0] = _Stage(None)
        prepare(state, 0)
        later = range(1, groups.count) if rule else sorted(set(frozen_at.tolist()) - {0})
        for frozen in later:
            before, x = stages[now[0]], at.x
            at = freeze(at, frozen)
            between = before.until(stages[frozen])
            if between is not None:
                stages[frozen].entry = task.n * outputs.forward_flops(between, params, x)
            prepare(at, frozen)
        now[0] = 0
        return state

    def step(state: Staged, k: int) -> tuple[Staged, Any]:
        frozen = max(int(frozen_at[k]), now[0], rule.frozen[-1] if rule else 0)
        entry = 0.0
        if frozen > now[0]:
            entry = sum(
                stages[f].entry for f in range(now[0] + 1, frozen + 1) if f in stages
            )
            state = freeze(state, frozen)
        stage = stages[frozen]
        assert stage.compiled is not None
        rows = None if stream is None else stream[k]
        active, velocity, gradient, value = stage.compiled(*state, etas[k], y, rows)
        if rule is not None and k + 1 in rule.ends:
            rule.see(_norms(gradient, groups, frozen))
            gradient = _zeros(gradient)
        spent.append(spent[-1] + whole * stage.flops / max(stages[0].flops, 1.0) + entry)
        return state._replace(active=active, velocity=velocity, gradient=gradient), value

    def weights(state: Staged) -> Params:
        return groups.with_active(state.params, state.active, now[0])

    return Steps(start, step, weights, lambda taken: spent[min(taken, len(spent) - 1)])


@dataclass
class _Stage:
    """Some groups frozen, for all steps until the next is."""

    cut: tuple[Stages, Stages] | None
    compiled: Callable | None = None
    flops: float = 0.0
    entry: float = 0.0
    """Operations of putting by what is new."""

    def until(self, later: "_Stage") -> Stages | None:
        """What stands between the cuts of two stages; ``None`` where there is none."""
        if later.cut is None:
            return None
        names = later.cut[0].names[len(self.cut[0].names) if self.cut else 0 :]
        return later.cut[0].of(names)


def _update(
    apply_fn: ApplyFn, task: Task, sgd: SGD, groups: Groups, frozen: int
) -> Callable:
    """One step of the groups that learn, as optax has it for all."""
    loss = outputs.loss_of(apply_fn, task.loss)
    decay = decay_of(sgd, groups.active(task.params, frozen))
    trace = optax.trace(sgd.momentum, sgd.nesterov) if sgd.momentum else None
    of_leaf = [g for g in groups.of_leaf if g >= frozen]

    def update(params, active, velocity, x, total, eta, y, rows):
        def of(active):
            return loss(groups.with_active(params, active, frozen), x, y, rows)

        value, gradient = jax.value_and_grad(of)(active)
        if total is not None:
            total = jax.tree.map(jnp.add, total, gradient)
        moves, _ = decay.update(gradient, decay.init(active), active)
        if trace is not None:
            moves, remembered = trace.update(moves, optax.TraceState(velocity))
            velocity = jax.tree.leaves(remembered)
        new = [
            (w - eta[g] * m).astype(w.dtype)
            for w, m, g in zip(active, jax.tree.leaves(moves), of_leaf, strict=True)
        ]
        return new, velocity, total, value

    return update


@jax.jit
def _squares(gradient):
    return [jnp.sum(jnp.square(leaf)) for leaf in gradient]


@jax.jit
def _zeros(gradient):
    return [jnp.zeros_like(leaf) for leaf in gradient]


def _norms(gradient: Sequence[Any], groups: Groups, frozen: int) -> np.ndarray:
    squares = np.zeros(groups.count)
    of_leaf = [g for g in groups.of_leaf if g >= frozen]
    for square, g in zip(jax.device_get(_squares(gradient)), of_leaf, strict=True):
        squares[g] += square
    return np.sqrt(squares)
