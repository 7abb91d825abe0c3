"""What the search literature reads off a network before training, in place of a prediction.

Each is one number of a task at its starting weights, with the side on which it is taken to be
better and what it costs in forward passes of one sample (a backward pass counts as two). All
were made for networks with random weights that are trained whole; here "weights" are those
that are trained, and the batch is all samples that are trained on.

None of them knows the learning rate, the batches or the number of steps: candidates that
differ in these alone are tied.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import losses, outputs, programs
from ttp_jax.types import Params, Task


@dataclass(frozen=True)
class Proxy:
    """One number of a network before training."""

    name: str
    value: float
    larger_is_better: bool
    forward_passes: float
    """What it takes alone, in forward passes of one sample."""


def gradient(task: Task) -> Params:
    """``dL/dw`` of the mean loss at the start. Three forward passes a sample."""
    f0 = outputs.forward(task.apply_fn, task.params, task.x)
    g = losses.gradient(task.loss, jnp.asarray(f0), jnp.asarray(task.targets, f0.dtype))
    (found,) = outputs.vjps(task.apply_fn, task.params, task.x, [np.asarray(g) / task.n])
    return found


def gradient_norm(task: Task, slope: Params) -> Proxy:
    """Sum over weight tensors of their gradient's length, ``sum_l |dL/dw_l|_2``.

    Abdelfattah et al., "Zero-cost proxies for lightweight NAS" (ICLR 2021, arXiv
    2101.08134), where larger is better.

    Args:
        task: What would be trained.
        slope: From :func:`gradient`.
    """
    lengths = [np.linalg.norm(np.asarray(leaf)) for leaf in jax.tree.leaves(slope)]
    return Proxy("gradient norm", float(np.sum(lengths)), True, 3.0 * task.n)


def snip(task: Task, slope: Params) -> Proxy:
    """``sum_k |w_k dL/dw_k|``, what the loss would change if each weight were cut.

    Lee, Ajanthan, Torr (ICLR 2019, arXiv 1810.02340) for pruning; summed over the network by
    Abdelfattah et al. (arXiv 2101.08134), where larger is better.

    Args:
        task: What would be trained.
        slope: From :func:`gradient`.
    """
    parts = jax.tree.map(lambda w, g: jnp.sum(jnp.abs(w * g)), task.params, slope)
    return Proxy("SNIP", float(sum(jax.tree.leaves(parts))), True, 3.0 * task.n)


def grad_sign(task: Task) -> Proxy:
    """``sum_k |sum_i sign(dl_i/dw_k)|``: whether samples pull each weight to one side.

    Zhang and Jia, "GradSign" (ICLR 2022, arXiv 2110.08616), where larger is better. Gradients
    are taken one sample at a time: all at once would need ``n p`` numbers.
    """
    add = programs.compiled(task.apply_fn, _add_signs, static_argnums=3)
    y = jnp.asarray(task.targets, np.float32)
    total = add(task.params, jnp.asarray(task.x), y, task.loss)
    value = sum(float(jnp.sum(jnp.abs(leaf))) for leaf in jax.tree.leaves(total))
    return Proxy("GradSign", value, True, 3.0 * task.n)


def _add_signs(apply_fn):
    def of(params, x, y, loss):
        def one(total, sample):
            x, y = sample

            def value(w):
                f = apply_fn(w, x[None])
                return losses.mean(loss, f, y[None].astype(f.dtype))

            signs = jax.tree.map(jnp.sign, jax.grad(value)(params))
            return jax.tree.map(jnp.add, total, signs), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(one, zeros, (x, y))[0]

    return of


def condition_number(theta: Float[np.ndarray, "nc nc"], c: int) -> Proxy:
    """``lam_max/lam_min`` of the kernel of the sum of outputs, ``K = J_s J_s^T [n, n]``.

    Chen, Gong, Wang, "TE-NAS" (ICLR 2021, arXiv 2102.11535), where smaller is better; its
    public code takes the gradients of the sum of logits, as here. ``K_ij = sum_ab
    Theta[(i,a),(j,b)]`` of a kernel that is there; alone it takes one backward pass a sample
    and ``n^2 p`` multiply-adds, which the forward passes do not count.

    Args:
        theta: The kernel of the samples that are trained on, of all outputs.
        c: Outputs.

    Returns:
        Infinite where the kernel is singular to rounding (fewer weights than samples).
    """
    n = len(theta) // c
    summed = np.asarray(theta, float).reshape(n, c, n, c).sum(axis=(1, 3))
    lam = np.linalg.eigvalsh(summed)
    singular = lam[0] <= n * np.finfo(np.float32).eps * lam[-1]
    value = np.inf if singular else float(lam[-1] / lam[0])
    return Proxy("NTK condition number", value, False, 3.0 * n)


def mean_eigenvalue(theta: Float[np.ndarray, "nc nc"], c: int) -> Proxy:
    """``tr Theta/(n c)``, the mean squared length of the gradient of an output.

    The kernel's trace ranks networks in Shu et al., "NASI" (ICLR 2022, arXiv 2109.00817),
    where larger is better: a network with a large kernel trains fast. Alone it takes ``c``
    backward passes a sample.

    Args:
        theta: The kernel of the samples that are trained on, of all outputs.
        c: Outputs.
    """
    value = float(np.trace(np.asarray(theta, float)) / len(theta))
    return Proxy("NTK trace", value, True, (1 + 2.0 * c) * (len(theta) // c))
