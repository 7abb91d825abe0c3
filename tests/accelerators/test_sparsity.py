"""Masks: how many weights each tensor keeps, where they start and how they move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import linear
from tests.bent import bent
from ttp_jax.accelerators import sparsity as masks_of
from ttp_jax.accelerators.sparsity import Sparsity
from ttp_jax.kernel import empirical
from ttp_jax.types import InputError, Masked, apply_masks

SHAPES = [(3, 3, 4, 8), (64, 10), (20, 20), (5, 2)]
PARAMS = {"a": np.ones((20, 30)), "b": np.ones(7), "c": np.ones((3, 3, 4, 5))}


@pytest.mark.parametrize("spread", ["erk", "uniform"])
@pytest.mark.parametrize("density", [0.01, 0.05, 0.1, 0.37, 0.9, 1.0])
def test_counts_sum_to_the_density_exactly(spread, density):
    sizes = np.array([np.prod(shape) for shape in SHAPES])
    found = np.array(masks_of.counts(SHAPES, density, spread))
    assert found.sum() == round(density * sizes.sum())
    assert (found >= 1).all()
    assert (found <= sizes).all()


def test_erk_goes_as_the_sum_of_the_sides():
    # none of these is full: counts are in proportion to the sums of the sides
    shapes = [(100, 200), (300, 100), (3, 3, 60, 60)]
    found = np.array(masks_of.counts(shapes, 0.05, "erk"))
    sides = np.array([sum(shape) for shape in shapes])
    expected = sides / sides.sum() * found.sum()
    assert (np.abs(found - expected) <= 1).all()
    # and one that would be more than full is full, the others as before among themselves
    small = np.array(masks_of.counts([*shapes, (4, 4)], 0.05, "erk"))
    assert small[3] == 16
    expected = sides / sides.sum() * (small.sum() - 16)
    assert (np.abs(small[:3] - expected) <= 1).all()


def test_uniform_density_is_that_of_each_tensor():
    found = np.array(masks_of.counts([(100, 200), (300, 100)], 0.05, "uniform"))
    assert found.tolist() == [1000, 1500]


def test_random_masks_depend_on_the_seed_and_magnitude_ones_on_the_weights():
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), PARAMS)
    one, again, other = (
        masks_of.first_masks(params, Sparsity(0.2, seed=seed)) for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert (np.asarray(one["a"]) != np.asarray(other["a"])).any()
    largest = masks_of.first_masks(params, Sparsity(0.2, start="magnitude"))
    for name in ("a", "c"):
        there = np.asarray(largest[name])
        size = np.abs(params[name])
        assert size[there].min() > size[~there].max()
    assert np.asarray(largest["b"]).all()
    assert masks_of.density_of(one) == (round(0.2 * 780) + 7, 787)


@pytest.mark.parametrize("grow", ["random", "gradient"])
@pytest.mark.parametrize("dropped", [0, 1, 20, 120])
def test_an_update_drops_the_smallest_and_grows_as_many(grow, dropped):
    rng = np.random.default_rng(1)
    sparse = Sparsity(0.2, grow=grow)
    masks = masks_of.first_masks(PARAMS, sparse)
    w = apply_masks(
        masks, jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape)), PARAMS)
    )
    g = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape)), PARAMS)
    counts = masks_of.counts_of(PARAMS, sparse)
    drops = jnp.minimum(jnp.array([dropped, 0, dropped]), jnp.array(counts))
    move = jax.jit(
        lambda masks, w, g, drops, key: masks_of.moved(
            masks, w, g, counts, drops, key, grow=grow
        )
    )
    new = move(masks, w, g, drops, jax.random.key(3))
    for at, name in ((0, "a"), (2, "c")):
        before, after = np.asarray(masks[name]), np.asarray(new[name])
        assert after.dtype == bool
        assert after.sum() == before.sum() == counts[at]
        number = int(drops[at])
        size = np.abs(np.asarray(w[name]))
        kept = before & (size >= np.sort(size[before])[min(number, counts[at] - 1)])
        if number < counts[at]:
            assert (after & kept).sum() == counts[at] - number
        else:
            kept = np.zeros_like(before)
        grown = after & ~kept
        assert grown.sum() == number
        if grow == "gradient" and number:
            score = np.abs(np.asarray(g[name]))
            assert score[grown].min() >= score[~after].max()
    np.testing.assert_array_equal(new["b"], masks["b"])


def test_growth_at_random_is_spread_evenly():
    """Over many keys, every candidate is grown as often as the others."""
    mask = jnp.zeros((6, 5), bool).at[0].set(True)
    w = {"a": jnp.where(mask, jnp.arange(1.0, 31.0).reshape(6, 5), 0.0)}
    runs, drops = 4000, jnp.array([2])
    grown = jax.jit(
        jax.vmap(
            lambda key: masks_of.moved({"a": mask}, w, w, (5,), drops, key, grow="random")
        )
    )(jax.random.split(jax.random.key(0), runs))["a"]
    share = np.asarray(grown).mean(axis=0)
    assert (share[0, 2:] == 1).all()  # kept: the largest three
    candidates = np.append(share[0, :2], share[1:].ravel())
    expected = 2 / 27
    standard = np.sqrt(expected * (1 - expected) / runs)
    assert (np.abs(candidates - expected) < 4.5 * standard).all()


def test_nan_gradients_do_not_change_the_counts():
    mask = {"a": jnp.zeros((4, 5), bool).at[0].set(True)}
    nan = {"a": jnp.full((4, 5), jnp.nan)}
    new = masks_of.moved(
        mask, nan, nan, (5,), jnp.array([2]), jax.random.key(0), grow="gradient"
    )
    assert int(new["a"].sum()) == 5


def test_the_drop_share_falls_by_half_a_cosine():
    sparse = Sparsity(0.1, grow="random", every=10, until=0.75, drop=0.4)
    shares = sparse.drop_shares(200)
    assert shares[0] == 0.4
    assert shares[75] == pytest.approx(0.2)
    assert shares[150:].max() == pytest.approx(0)
    np.testing.assert_array_equal(sparse.update_steps(200), np.arange(10, 150, 10))
    assert not len(Sparsity(0.1).update_steps(200))
    drops = masks_of.drops_of(sparse, [10, 1000], 200)
    assert drops[0].tolist() == [4, 400]
    assert drops[75].tolist() == [2, 200]


@pytest.mark.usefixtures("x64")
def test_the_masked_kernel_is_that_of_the_columns_that_are_left():
    task = bent("mse")
    masks = masks_of.first_masks(task.params, Sparsity(0.3, seed=2))
    w = apply_masks(masks, task.params)
    flat, unravel = jax.flatten_util.ravel_pytree(w)
    jac = jax.jacrev(lambda v: task.apply_fn(unravel(v), task.x).reshape(-1))(flat)
    left = np.asarray(jac) * np.asarray(jax.flatten_util.ravel_pytree(masks)[0], float)
    found = empirical.empirical_ntk(Masked(task.apply_fn, masks), w, task.x)
    np.testing.assert_allclose(found, left @ left.T, atol=1e-12)
    # and that of the masked model, differentiated through its mask
    static = masks_of.masked_task(task, masks)
    through = empirical.empirical_ntk(static.apply_fn, static.params, static.x)
    np.testing.assert_allclose(found, through, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_random_masks_leave_their_density_of_the_kernel_on_average():
    """E Theta_s = sum_l rho_l Theta_l at the same weights, within standard errors."""
    task = bent("mse")
    sparse = Sparsity(0.3)
    counts = masks_of.counts_of(task.params, sparse)
    leaves = jax.tree.leaves(task.params)
    shares = empirical.layerwise_ntk(task.apply_fn, task.params, task.x, by="tensor")
    expected = sum(
        count / leaf.size * shares[name]
        for count, leaf, name in zip(counts, leaves, shares, strict=True)
    )
    flat, unravel = jax.flatten_util.ravel_pytree(task.params)
    jac = np.asarray(
        jax.jacrev(lambda v: task.apply_fn(unravel(v), task.x).reshape(-1))(flat)
    )
    runs = 400
    drawn = []
    for seed in range(runs):
        masks = masks_of.first_masks(task.params, Sparsity(0.3, seed=seed))
        left = jac[:, np.asarray(jax.flatten_util.ravel_pytree(masks)[0])]
        drawn.append(np.array([np.trace(left @ left.T), (left.sum(axis=0) ** 2).sum()]))
    drawn = np.array(drawn)
    standard = drawn.std(axis=0) / np.sqrt(runs)
    both = np.array([np.trace(expected), expected.sum()])
    assert (np.abs(drawn.mean(axis=0) - both) < 4 * standard).all()
    assert (standard < 0.02 * both).all()


def test_operations_are_counted_by_tensor():
    task = bent()
    masks = masks_of.first_masks(task.params, Sparsity(0.3))
    there = {name: int(np.asarray(mask).sum()) for name, mask in masks.items()}
    # one use of each weight a sample: the shares of both tensors together
    expected = (there["a"] + there["b"]) / (5 * 12 + 12 * 3)
    assert masks_of.operations_share(task, masks) == pytest.approx(expected)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan")])
def test_a_density_out_of_range_is_one_line(density):
    with pytest.raises(InputError, match=r"density must lie in \(0, 1\]"):
        Sparsity(density)


def test_what_cannot_be():
    task = linear.task("mse")
    with pytest.raises(InputError, match=r"updated within the first 15 of 20 steps"):
        Sparsity(0.1, grow="random", every=15).update_steps(20)
    with pytest.raises(InputError, match="a weight to each of 4 tensors"):
        masks_of.counts(SHAPES, 1e-4)
    with pytest.raises(InputError, match="two or more dimensions"):
        masks_of.counts_of({"b": np.ones(3)}, Sparsity(0.1))
    with pytest.raises(InputError, match="every 1 steps or more"):
        Sparsity(0.1, every=0)
    with pytest.raises(InputError, match="must lie in"):
        Sparsity(0.1, drop=1.5)
    assert masks_of.counts_of(task.params, Sparsity(1.0)) == (3, 21)
